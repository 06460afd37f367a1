"""Files that batches read: what is told of those that are not sound, and how little is held of them."""

import io
import json
from collections.abc import Callable

import pytest

from coordinator.batch_input import MOST_WRONG, BatchInput, NotSound, Reader, Sound, Stopped
from coordinator.services.openai.batch_readers import READERS

CHAT = "/v1/chat/completions"


def checked(data: bytes, stopped: Callable[[], bool] = lambda: False, reader: Reader = READERS[CHAT]) -> Sound:
    reads = BatchInput(lambda: io.BytesIO(data), CHAT, reader, 0, stopped)
    return reads.check(lambda model, payloads: None, 1_000_000)


def line(name: str, model: str = "m", **fields: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], **fields}
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


def test_a_file_is_not_read_on_when_its_coordinator_stops() -> None:
    seen = iter([False, False, True])
    with pytest.raises(Stopped):
        checked(line("a") + line("b") + line("c"), lambda: next(seen))


def test_what_is_told_of_lines_is_short_and_about_the_first_of_them() -> None:
    long = "n" * 100_000
    with pytest.raises(NotSound) as twice:
        checked(b"".join(line(f"{long}{number % 150}") for number in range(300)))
    assert [wrong.line for wrong in twice.value.wrong] == [*range(151, 151 + MOST_WRONG)]
    with pytest.raises(NotSound) as other:
        checked(line("a") + line("b", long) + line("c", max_tokens=long))
    assert len(other.value.wrong) == 2
    for wrong in (*twice.value.wrong, *other.value.wrong):
        assert len(wrong.message) < 1100


def test_what_is_no_number_is_refused_as_in_a_call() -> None:
    with pytest.raises(NotSound, match="line 1 is not JSON that can be read: NaN is no number"):
        checked(line("a", temperature=float("nan")))
