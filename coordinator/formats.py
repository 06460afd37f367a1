"""INPUT files read into payloads: JSONL in OpenAI batch form, a text file, a folder of pictures.

Owns these forms and every complaint about them, with file and line. Knows no job, no network and no terminal.
An input is gone through once to see that all of it is sound, and again whenever its requests are wanted: it may
be larger than memory.
"""

import base64
import binascii
import io
import json
import os
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, NoReturn

import numpy as np

from coordinator.errors import CarpoolError

PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what a car reads
JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIRST_REPEATED = 100  # two texts may have one hash, a hundred times two do not
_FIRST_LINE_BYTES = 1 << 20  # a longer one makes nobody wiser
CAPABILITY = {
    "embed": "embeds text: give a text file of one item a line, or JSONL with body.input",
    "generate": "answers chats: give a text file of one prompt a line, or JSONL with body.messages",
    "classify": "classifies pictures: give a folder of them, or JSONL with a data: URL as body.input",
    "echo": "echoes: give a text file of one item a line, or JSONL with body.input",
}


Request = tuple[str, Sequence[bytes]]
"""One request: its custom_id, and its items, at least one: a list as body.input holds several."""

_Check = Callable[[str, bytes], None]
"""Raises CarpoolError, which names the place, for an item that no car would take."""


class Batch:
    """The requests of one input, in its order, read anew each time that they are gone through."""

    def __init__(self, read: Callable[[], Iterator[Request]], requests: int, items: int) -> None:
        self._read = read
        self.requests = requests
        self.items: Collection[bytes] = _Items(read, items)

    def __iter__(self) -> Iterator[Request]:
        return self._read()

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "Batch":
        """These requests."""
        return cls(lambda: iter(requests), len(requests), sum(len(items) for _, items in requests))


class _Items(Collection[bytes]):
    """The items of all requests, in order."""

    def __init__(self, read: Callable[[], Iterator[Request]], count: int) -> None:
        self._read = read
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return (item for _, items in self._read() for item in items)

    def __contains__(self, item: object) -> bool:
        return any(item == other for other in self)


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
    """INPUT for this model; CarpoolError names the first line or file that will not do."""

    def check(where: str, item: bytes) -> None:
        if kind == "classify":
            _check_picture(where, item, model, max_item_bytes)
        else:
            _check_size(where, item, model, max_item_bytes)

    if path.is_dir():
        if kind not in ("classify", "echo"):
            raise CarpoolError(f"{path} is a folder, and {model} {CAPABILITY[kind]}")
        return _read_folder(path, check)
    source = _Source(path)
    if source.is_json_lines():
        return _read_json_lines(source, model, kind, check)
    if kind == "classify":
        data = _bytes_of(path) if source.data is None else source.data
        check(str(path), data)
        return Batch.of([(path.name, (data,))])
    return _read_text(source, kind, check)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> CarpoolError:
    return CarpoolError(f"cannot read {path}: {error.strerror or error}")


class _Source:
    """A file to be gone through more than once; what can be read only once, such as a pipe, is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._status = path.stat()
            self.data = None if S_ISREG(self._status.st_mode) else path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from None

    def is_json_lines(self) -> bool:
        """By its name, or because its first line is a request."""
        if self.path.suffix.lower() in JSON_LINES:
            return True
        with self._opened() as file:
            first = file.readline(_FIRST_LINE_BYTES)
        try:
            request = json.loads(first.removeprefix(_BYTE_ORDER_MARK))
        except ValueError:
            return False
        return isinstance(request, dict) and ("custom_id" in request or "body" in request)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Numbered lines without their ends; what follows the last end is a line if it is not empty."""
        number = 0
        with self._opened() as file:
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
                if not line:
                    raise CarpoolError(f"{self.path} is empty; it needs at least one item")
                try:
                    yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError as error:
                    raise CarpoolError(
                        f"{self.path} line {number} is not UTF-8 at byte {error.start}; save the file as UTF-8"
                    ) from None
        if not number:
            raise CarpoolError(f"{self.path} is empty; it needs at least one item")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.data is not None:
            yield io.BytesIO(self.data)
            return
        try:
            with self.path.open("rb") as file:
                now = os.fstat(file.fileno())
                if (now.st_ino, now.st_size, now.st_mtime_ns) != (
                    self._status.st_ino,
                    self._status.st_size,
                    self._status.st_mtime_ns,
                ):
                    raise CarpoolError(f"{self.path} was changed while it was read; run the command again")
                yield file
        except OSError as error:
            raise _unreadable(self.path, error) from None


def _read_folder(folder: Path, check: _Check) -> Batch:
    """Every file below the folder that is not hidden, by name; each must be a picture."""
    try:
        below = [(path, path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from None
    found = sorted((name.as_posix(), path) for path, name in below if not _is_hidden(name))
    if not found:
        raise CarpoolError(f"{folder} holds no picture; give a folder of JPEG or PNG files")
    for _, path in found:
        check(str(path), _bytes_of(path))
    return Batch.of([(name, PictureFiles([path])) for name, path in found])


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _read_text(source: _Source, kind: str, check: _Check) -> Batch:
    def requests() -> Iterator[Request]:
        for number, line in source.lines():
            item = _chat([{"role": "user", "content": line}]) if kind == "generate" else line.encode()
            yield f"line-{number}", (item,)

    number = 0
    for number, line in source.lines():
        where = f"{source.path} line {number}"
        if not line.strip():
            raise CarpoolError(f"{where} is empty; an item needs text, so remove the line")
        check(where, _chat([{"role": "user", "content": line}]) if kind == "generate" else line.encode())
    return Batch(requests, number, number)


def _read_json_lines(source: _Source, model: str, kind: str, check: _Check) -> Batch:
    def requests() -> Iterator[Request]:
        for number, line in source.lines():
            where = f"{source.path} line {number}"
            custom_id, body = _request(where, line)
            yield custom_id, _payloads(where, body, model, kind)

    items = 0
    hashes = array("q")  # of the custom_ids: eight bytes a request
    for number, (custom_id, payloads) in enumerate(requests(), 1):
        for payload in payloads:
            check(f"{source.path} line {number}", payload)
        items += len(payloads)
        hashes.append(hash(custom_id))
    _check_unique(source, hashes)
    return Batch(requests, len(hashes), items)


def _check_unique(source: _Source, hashes: "array[int]") -> None:
    """Raises CarpoolError for the first custom_id that an earlier line has."""
    twice = repeated(hashes, _FIRST_REPEATED)
    first_seen: dict[str, int] = {}
    for number, line in source.lines() if twice else ():
        where = f"{source.path} line {number}"
        custom_id, _ = _request(where, line)
        if hash(custom_id) not in twice:
            continue
        if custom_id in first_seen:
            raise CarpoolError(
                f"{where} has the custom_id {custom_id!r} of line {first_seen[custom_id]}; make it unique"
            )
        first_seen[custom_id] = number


def repeated(hashes: "array[int]", most: int) -> set[int]:
    """Of these hashes, of type "q", those that are there more than once: of so many places at most, the first where
    one comes again."""
    values = np.frombuffer(hashes, np.int64)
    order = np.argsort(values, kind="stable")
    again = order[1:][np.diff(values[order]) == 0]
    return {*values[np.sort(again)[:most]].tolist()}


def read_object(where: str, line: str) -> dict[str, Any]:
    """The JSON object that a line is; CarpoolError begins with `where`."""
    try:
        request = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise CarpoolError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise CarpoolError(f"{where} is not JSON that can be read: {error}") from None
    if not isinstance(request, dict):
        raise CarpoolError(f"{where} is not a JSON object with custom_id and body")
    return request


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _request(where: str, line: str) -> tuple[str, dict[str, Any]]:
    """The custom_id and the body of one line."""
    request = read_object(where, line)
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
