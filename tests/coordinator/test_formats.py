"""INPUT in its three forms, each complaint about it, and the lines of OUT."""

import base64
import io
import json
import os
import struct
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from coordinator.answers import AnswerLines
from coordinator.errors import CarpoolError, Failure
from coordinator.formats import Batch, read

MIB = 1024 * 1024


def embed(path: Path) -> Batch:
    return read(path, "minilm", "embed", MIB)


def jsonl(path: Path, requests: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def picture(kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 10, 30)).save(data, kind)
    return data.getvalue()


def test_a_text_file_is_one_item_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("\ufeffone\r\ntwo \u00fc\nthree".encode())
    batch = embed(path)
    assert list(batch.items) == [b"one", "two \u00fc".encode(), b"three"]
    assert [custom_id for custom_id, _ in batch] == ["line-1", "line-2", "line-3"]


def test_a_text_line_for_a_chat_model_is_the_user_speaking(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("Why is the sky blue?\n")
    batch = read(path, "smollm2", "generate", MIB)
    assert json.loads(next(iter(batch.items))) == {
        "messages": [{"role": "user", "content": "Why is the sky blue?"}]
    }


def test_openai_batch_lines_keep_their_ids_and_options(tmp_path: Path) -> None:
    body = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    batch = read(jsonl(tmp_path / "in.jsonl", [{"custom_id": "a", "body": body}]), "smollm2", "generate", MIB)
    assert [custom_id for custom_id, _ in batch] == ["a"]
    assert json.loads(next(iter(batch.items))) == {"messages": body["messages"], "max_tokens": 5}


def test_json_lines_are_known_under_any_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "in.txt", [{"custom_id": "a", "body": {"input": "one"}}])
    assert list(embed(path).items) == [b"one"]


def test_a_list_as_input_is_several_items_of_one_request(tmp_path: Path) -> None:
    requests = [
        {"custom_id": "a", "body": {"input": ["one", "two"]}},
        {"custom_id": "b", "body": {"input": "3"}},
    ]
    batch = embed(jsonl(tmp_path / "in.jsonl", requests))
    assert ([len(items) for _, items in batch], list(batch.items)) == ([2, 1], [b"one", b"two", b"3"])


def test_a_folder_of_pictures_is_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.png").write_bytes(picture())
    (tmp_path / "deep" / "a.jpg").write_bytes(picture("JPEG"))
    (tmp_path / ".DS_Store").write_bytes(b"of no interest")
    batch = read(tmp_path, "lite0", "classify", MIB)
    assert [custom_id for custom_id, _ in batch] == ["b.png", "deep/a.jpg"]
    assert list(batch.items) == [picture(), picture("JPEG")]


def test_a_picture_may_come_as_a_data_url(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    path = jsonl(tmp_path / "in.jsonl", [{"custom_id": "a", "body": {"input": url}}])
    assert list(read(path, "lite0", "classify", MIB).items) == [picture()]


def test_broken_json_at_line_7_of_10000_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"custom_id": str(i), "body": {"input": "text"}}) for i in range(10_000)]
    lines[6] = lines[6][:-1]
    path.write_text("\n".join(lines))
    with pytest.raises(CarpoolError, match=r"in.jsonl line 7 is not JSON: .* at column 45"):
        embed(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1]", "is not a JSON object"),
        ("", "is not JSON"),
        ('{"body": {"input": "x"}}', "needs a custom_id"),
        ('{"custom_id": 7, "body": {"input": "x"}}', "needs a custom_id"),
        ('{"custom_id": "first", "body": {"input": "x"}}', "has the custom_id 'first' of line 1"),
        ('{"custom_id": "a"}', "needs a body"),
        ('{"custom_id": "a", "body": {"messages": []}}', "has no body.input, and minilm embeds text"),
        ('{"custom_id": "a", "body": {"input": []}}', "has no body.input"),
        ('{"custom_id": "a", "body": {"input": [1, 2]}}', "has a body.input that is not text"),
        ('{"custom_id": "a", "body": {"input": " "}}', "has an empty item"),
        ('{"custom_id": "a", "body": {"input": "\\ud800"}}', "has half a surrogate pair"),
        ('{"custom_id": "a", "body": {"input": ' + "9" * 5000 + "}}", "is not JSON that can be read"),
        ('{"custom_id": "a", "body": ' + "[" * 200_000, "is not JSON"),
        (
            '{"custom_id": "a", "body": {"input": "' + "x" * 10_000_000 + '"}}',
            "has 10,000,000 bytes and minilm takes at most 1,048,576",
        ),
    ],
)
def test_a_line_that_will_not_do_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"custom_id": "first", "body": {"input": "x"}}\n' + line + "\n")
    with pytest.raises(CarpoolError, match=f"in.jsonl line 2 {complaint}") as caught:
        embed(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty; it needs at least one item"),
        (b"one\n\nthree\n", "line 2 is empty"),
        (b"one\n\xff\xfe\n", "line 2 is not UTF-8 at byte 0"),
        (b"x" * (MIB + 1), "line 1 has 1,048,577 bytes"),
    ],
)
def test_text_that_will_not_do_is_named(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(data)
    with pytest.raises(CarpoolError, match=complaint):
        embed(path)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"plain text", "two.jpg is not a picture"),
        (b"", "two.jpg is empty"),
        (picture()[:40], "two.jpg is (not a|a damaged) picture"),
        (picture() + b"\0" * MIB, "two.jpg has 1,048,.* bytes and lite0 takes at most 1,048,576"),
    ],
)
def test_an_image_that_is_none_is_named(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / "one.png").write_bytes(picture())
    (tmp_path / "two.jpg").write_bytes(data)
    with pytest.raises(CarpoolError, match=complaint):
        read(tmp_path, "lite0", "classify", MIB)


def test_input_that_is_not_there_or_not_for_the_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CarpoolError, match=r"cannot read .*missing.txt: No such file"):
        embed(tmp_path / "missing.txt")
    with pytest.raises(CarpoolError, match="holds no picture"):
        read(tmp_path, "lite0", "classify", MIB)
    with pytest.raises(CarpoolError, match="is a folder, and minilm embeds text"):
        embed(tmp_path)


def answers(batch: Batch, kind: str, payloads: list[bytes], failures: dict[int, Failure]) -> list[dict]:  # type: ignore[type-arg]
    lines = AnswerLines(batch, "job-1", "the model", kind, 1_700_000_000)
    half = len(payloads) // 2
    text = [*lines.take(payloads[:half], failures, 0), *lines.take(payloads[half:], failures, half)]
    assert lines.complete
    return [json.loads(line.text) for line in text]


def test_an_embedding_comes_back_to_the_bit() -> None:
    vector = struct.pack("<4f", 0.1, -1.17549435e-38, 3.4028235e38, 1 / 3)
    results = [vector + struct.pack("<I", tokens) for tokens in (7, 1 << 31)]
    (line,) = answers(Batch.of([("a", [b"x", b"y"])]), "embed", results, {})
    assert line["custom_id"] == "a"
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    body = line["response"]["body"]
    assert (body["object"], body["model"], body["data"][0]["index"]) == ("list", "the model", 0)
    assert struct.pack("<4f", *body["data"][0]["embedding"]) == vector
    assert body["usage"] == {"prompt_tokens": 7 + (1 << 31), "total_tokens": 7 + (1 << 31)}


def test_a_request_of_several_items_has_one_line() -> None:
    batch = Batch.of([("a", [b"1", b"2"]), ("b", [b"3"])])
    first, second = answers(batch, "echo", [b"1", b"2", b"3"], {})
    assert [row["output"] for row in first["response"]["body"]["data"]] == ["1", "2"]
    assert second["custom_id"] == "b"


def test_a_chat_completion_reads_as_openai_says() -> None:
    result = {"text": "Because.", "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 3}
    (line,) = answers(Batch.of([("a", [b"x"])]), "generate", [json.dumps(result).encode()], {})
    body = line["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Because.", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def test_a_failed_item_is_an_error_and_its_neighbours_are_not() -> None:
    batch = Batch.of([("a", [b"1"]), ("b", [b"2"]), ("c", [b"3"])])
    lines = answers(batch, "echo", [b"1", b"", b"3"], {1: Failure("out_of_memory", "it did not fit")})
    assert [line["custom_id"] for line in lines] == ["a", "b", "c"]
    assert lines[1]["response"] is None
    assert lines[1]["error"] == {"code": "out_of_memory", "message": "it did not fit"}
    assert lines[0]["error"] is None
    assert lines[2]["error"] is None


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("embed", b"abc"),
        ("embed", struct.pack("<I", 7)),
        ("embed", struct.pack("<ffH", 1.0, 1.0, 7)),
        ("embed", struct.pack("<fI", float("nan"), 7)),
    ],
)
def test_a_result_that_cannot_be_read_is_an_error(kind: str, payload: bytes) -> None:
    (line,) = answers(Batch.of([("a", [b"x"])]), kind, [payload], {})
    assert line["response"] is None
    assert line["error"]["code"] == "model"


def test_an_input_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for number in range(40_000):
            file.write(json.dumps({"custom_id": f"request-{number}", "body": {"input": "x" * 500}}) + "\n")
    tracemalloc.start()
    try:
        batch = read(path, "noop", "echo", MIB)
        assert sum(len(item) for item in batch.items) == 500 * len(batch.items) == 500 * 40_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


def test_an_input_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    batch = read(path, "noop", "echo", MIB)
    path.write_text("one\ntwo\nthree\n")
    with pytest.raises(CarpoolError, match=r"lines\.txt was changed while it was read; run the command again"):
        list(batch.items)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    batch = read(path, "noop", "echo", MIB)
    writer.join()
    assert list(batch.items) == list(batch.items) == [b"one", b"two"]
