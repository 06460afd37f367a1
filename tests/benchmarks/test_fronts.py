"""The benchmark of fronts, end to end at a tiny size, and the callers that it trusts."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks import fronts_load, timer
from benchmarks.figures import BenchmarkFailed
from benchmarks.fronts_load import Load
from tests.benchmarks.running import measured, samples


def test_every_front_is_measured_beside_the_echo(tmp_path: Path) -> None:
    sizes = ("--rounds", 1, "--seconds", 0.2, "--width", 4, "--cars", "1", "--ray", "")
    document = measured(tmp_path, "fronts", *sizes, "--parts", "latency")
    for front in ("JobService.Run", "Open Inference", "OpenAI", "echo"):
        for width in (1, 4):
            (added_ms,) = samples(document, f"{front}, {width} at a time: added p50")
            (per_s,) = samples(document, f"{front}, {width} at a time")
            assert added_ms > 0
            assert per_s < width / timer.TIMER_S, "no model answers sooner than its timer"


def test_an_answer_without_the_models_own_time_fails_the_benchmark() -> None:
    async def measure() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps({"error": {"message": "no such model"}}).encode()
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await fronts_load.bear(Load("openai", f"127.0.0.1:{port}", 1, 0.2))

    with pytest.raises(BenchmarkFailed, match=r"404: .*no such model"):
        asyncio.run(measure())


def test_what_the_model_took_is_told_in_its_answer() -> None:
    payload = timer.result(0.00125)
    assert timer.took_ms(payload) == pytest.approx(1.25)
    assert json.loads(timer.document(payload, "noop"))["data"][0]["embedding"][0] == pytest.approx(1.25)
    with pytest.raises(ValueError, match="3 bytes"):
        timer.took_ms(b"abc")
