"""INPUT files read into payloads: JSONL in OpenAI batch form, a text file, a folder of pictures.

Owns these forms and every complaint about them, with file and line. Knows no job, no network and no terminal.
Nothing is returned of an input that is not sound as a whole.
"""

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import CarpoolError

PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what a car reads
JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})
CAPABILITY = {
    "embed": "embeds text: give a text file of one item a line, or JSONL with body.input",
    "generate": "answers chats: give a text file of one prompt a line, or JSONL with body.messages",
    "classify": "classifies pictures: give a folder of them, or JSONL with a data: URL as body.input",
    "echo": "echoes: give a text file of one item a line, or JSONL with body.input",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests of one input file, in its order; request i holds the next `counts[i]` items."""

    custom_ids: Sequence[str]
    counts: Sequence[int]  # items of each request, at least 1: a list as body.input holds several
    items: Sequence[bytes]


class PictureFiles(Sequence[bytes]):
    """The bytes of these files, each read when it is asked for: a folder may be larger than memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return PictureFiles(self._paths[index])
        return _bytes_of(self._paths[index])


def read(path: Path, model: str, kind: str, max_item_bytes: int) -> Batch:
    """The whole of INPUT for this model; CarpoolError names the first line or file that will not do."""
    if path.is_dir():
        if kind not in ("classify", "echo"):
            raise CarpoolError(f"{path} is a folder, and {model} {CAPABILITY[kind]}")
        return _read_folder(path, model, kind, max_item_bytes)
    data = _bytes_of(path)
    if _is_json_lines(path, data):
        return _read_json_lines(path, data, model, kind, max_item_bytes)
    if kind == "classify":
        _check_picture(str(path), data, model, max_item_bytes)
        return Batch((path.name,), (1,), (data,))
    return _read_text(path, data, model, kind, max_item_bytes)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CarpoolError(f"cannot read {path}: {error.strerror or error}") from None


def _is_json_lines(path: Path, data: bytes) -> bool:
    """By its name, or because its first line is a request."""
    if path.suffix.lower() in JSON_LINES:
        return True
    try:
        first = json.loads(data.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and ("custom_id" in first or "body" in first)


def _read_folder(folder: Path, model: str, kind: str, max_item_bytes: int) -> Batch:
    """Every file below the folder that is not hidden, by name; each must be a picture."""
    try:
        below = [(path, path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    except OSError as error:
        raise CarpoolError(f"cannot read {folder}: {error.strerror or error}") from None
    found = sorted((name.as_posix(), path) for path, name in below if not _is_hidden(name))
    if not found:
        raise CarpoolError(f"{folder} holds no picture; give a folder of JPEG or PNG files")
    for _, path in found:
        data = _bytes_of(path)
        if kind == "classify":
            _check_picture(str(path), data, model, max_item_bytes)
        else:
            _check_size(str(path), data, model, max_item_bytes)
    return Batch([name for name, _ in found], [1] * len(found), PictureFiles([path for _, path in found]))


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _read_text(path: Path, data: bytes, model: str, kind: str, max_item_bytes: int) -> Batch:
    items: list[bytes] = []
    for number, line in _lines(path, data):
        where = f"{path} line {number}"
        if not line.strip():
            raise CarpoolError(f"{where} is empty; an item needs text, so remove the line")
        item = _chat([{"role": "user", "content": line}]) if kind == "generate" else line.encode()
        _check_size(where, item, model, max_item_bytes)
        items.append(item)
    return Batch([f"line-{number}" for number in range(1, len(items) + 1)], [1] * len(items), items)


def _read_json_lines(path: Path, data: bytes, model: str, kind: str, max_item_bytes: int) -> Batch:
    first_seen: dict[str, int] = {}
    counts: list[int] = []
    items: list[bytes] = []
    for number, line in _lines(path, data):
        where = f"{path} line {number}"
        custom_id, body = _request(where, line)
        if custom_id in first_seen:
            raise CarpoolError(
                f"{where} has the custom_id {custom_id!r} of line {first_seen[custom_id]}; make it unique"
            )
        first_seen[custom_id] = number
        payloads = _payloads(where, body, model, kind)
        for payload in payloads:
            if kind == "classify":
                _check_picture(where, payload, model, max_item_bytes)
            else:
                _check_size(where, payload, model, max_item_bytes)
        counts.append(len(payloads))
        items.extend(payloads)
    return Batch(list(first_seen), counts, items)


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; what follows the last end is a line if it is not empty."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise CarpoolError(f"{path} is empty; it needs at least one item")
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise CarpoolError(
                f"{path} line {number} is not UTF-8 at byte {error.start}; save the file as UTF-8"
            ) from None


def _request(where: str, line: str) -> tuple[str, dict[str, Any]]:
    """The custom_id and the body of one line."""
    try:
        request = json.loads(line)
    except json.JSONDecodeError as error:
        raise CarpoolError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise CarpoolError(f"{where} is not JSON that can be read: {error}") from None
    if not isinstance(request, dict):
        raise CarpoolError(f"{where} is not a JSON object with custom_id and body")
    custom_id, body = request.get("custom_id"), request.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise CarpoolError(f"{where} needs a custom_id, a string that is not empty")
    if not isinstance(body, dict):
        raise CarpoolError(f"{where} needs a body, an object with input or messages")
    return custom_id, body


def _payloads(where: str, body: dict[str, Any], model: str, kind: str) -> list[bytes]:
    """The items of one request: one, or as many as a list in body.input has."""
    try:
        if kind == "generate":
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise CarpoolError(f"{where} has no body.messages, and {model} {CAPABILITY[kind]}")
            if not all(isinstance(m, dict) and m.get("role") and m.get("content") for m in messages):
                raise CarpoolError(f"{where} has a message without role or content")
            return [_chat(**{name: value for name, value in body.items() if name != "model"})]
        texts = body.get("input")
        if isinstance(texts, str):
            texts = [texts]
        if not isinstance(texts, list) or not texts:
            raise CarpoolError(f"{where} has no body.input, and {model} {CAPABILITY[kind]}")
        if not all(isinstance(text, str) for text in texts):
            raise CarpoolError(f"{where} has a body.input that is not text, nor a list of texts")
        if not all(text.strip() for text in texts):
            raise CarpoolError(f"{where} has an empty item; an item needs text")
        return [_decoded(where, text) if kind == "classify" else text.encode() for text in texts]
    except UnicodeEncodeError:
        raise CarpoolError(f"{where} has half a surrogate pair, which is no text; mend the escape") from None


def _chat(messages: list[Any], **options: Any) -> bytes:
    return json.dumps({"messages": messages, **options}, ensure_ascii=False, separators=(",", ":")).encode()


def _decoded(where: str, url: str) -> bytes:
    """The bytes of a data: URL in base64."""
    head, comma, data = url.partition(",")
    try:
        if not (comma and head.startswith("data:") and head.endswith(";base64")):
            raise binascii.Error
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise CarpoolError(
            f"{where} has a body.input that is no data: URL of a picture (data:image/jpeg;base64,...)"
        ) from None


def _check_size(where: str, item: bytes, model: str, max_item_bytes: int) -> None:
    if not item:
        raise CarpoolError(f"{where} is empty; an item needs at least one byte")
    if len(item) > max_item_bytes:
        raise CarpoolError(
            f"{where} has {len(item):,} bytes and {model} takes at most {max_item_bytes:,}; make it smaller"
        )


def _check_picture(where: str, data: bytes, model: str, max_item_bytes: int) -> None:
    """Looks at the header and, where the format has them, at the checksums; decodes nothing."""
    from PIL import Image, UnidentifiedImageError  # a tenth of a second that other inputs need not pay

    _check_size(where, data, model, max_item_bytes)
    try:
        with Image.open(io.BytesIO(data), formats=PICTURES) as picture:
            picture.verify()
    except UnidentifiedImageError:
        raise CarpoolError(
            f"{where} is not a picture that can be read ({', '.join(PICTURES)}); remove or convert it"
        ) from None
    except Image.DecompressionBombError as error:
        raise CarpoolError(f"{where} is too large a picture: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise CarpoolError(f"{where} is a damaged picture ({error}); remove or mend it") from None
