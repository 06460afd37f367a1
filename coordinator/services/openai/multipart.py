"""A form with one file in it, read as it comes: the file goes to where it is kept, and is never whole in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import Call

_MOST_PARTS, _MOST_FIELD_BYTES = 32, 64 << 10
_MOST_HEADER_BYTES = 8 << 10  # of one part
_WRITE_BYTES = 1 << 20
FORM_BYTES = 4 << 20
"""What a form may have beside its file."""


class Form:
    """What a form holds beside the content of its file."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """Of the field `file`; None: there was none."""
        self.size = 0
        """Of that content, bytes."""


async def read_form(call: Call, most_bytes: int, write: Callable[[bytes], Awaitable[None]]) -> Form:
    """The form that a call brings; the content of its field `file` goes to `write` as it comes. Refused when it is
    none, or larger than this."""
    kind, options = parse_options_header(call.header("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        told = kind.decode("latin-1") or "of no type"
        raise Refused(Refusal.WRONG_FORM, f"the body is {told!r}; send multipart/form-data with purpose and file")
    return await _Reader(most_bytes, write).read(options[b"boundary"], call.chunks(most_bytes + FORM_BYTES))


class _Reader:
    def __init__(self, most_bytes: int, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._most_bytes = most_bytes
        self._write = write
        self._form = Form()
        self._field: str | None = None  # of the part that is read; None: it is the file
        self._text = bytearray()
        self._content = bytearray()
        self._headers: dict[str, str] = {}
        self._name, self._value = bytearray(), bytearray()  # of a header
        self._header_bytes = 0
        self._parts = 0
        self._ended = False

    async def read(self, boundary: bytes, chunks: AsyncIterator[bytes]) -> Form:
        """All of it."""
        try:
            parser = MultipartParser(boundary, callbacks=self._callbacks())
            async for chunk in chunks:
                parser.write(chunk)
                if len(self._content) >= _WRITE_BYTES:
                    await self._flush()
            parser.finalize()
        except FormParserError as error:
            raise Refused(Refusal.BAD_INPUT, f"the form cannot be read: {error}") from None
        if not self._ended:
            raise Refused(Refusal.BAD_INPUT, "the form ends before its last boundary; send all of it")
        await self._flush()
        return self._form

    async def _flush(self) -> None:
        content, self._content = bytes(self._content), bytearray()
        if content:
            await self._write(content)

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers.clear()
        self._text.clear()
        self._header_bytes = 0
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Refused(Refusal.BAD_INPUT, f"the form has over {_MOST_PARTS} fields, the limit; send fewer")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._count(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise Refused(Refusal.BAD_INPUT, f"a part of the form has over {_MOST_HEADER_BYTES} bytes of headers")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", "").encode())
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "file":
            if self._form.filename is not None:
                raise Refused(Refusal.BAD_INPUT, "the form has two fields `file`; send one file a call")
            self._form.filename = options.get(b"filename", b"").decode("utf-8", "replace")
            self._field = None
        elif not name:
            raise Refused(Refusal.BAD_INPUT, "the form has a field without a name; name it")
        else:
            self._field = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._content += data[start:end]
            self._form.size += end - start
            if self._form.size > self._most_bytes:
                raise Refused(Refusal.TOO_LARGE, f"the file has over {self._most_bytes} bytes, the limit: split it")
        else:
            self._text += data[start:end]
            if len(self._text) > _MOST_FIELD_BYTES:
                raise Refused(Refusal.TOO_LARGE, f"the field {self._field!r} has over {_MOST_FIELD_BYTES} bytes")

    def _end(self) -> None:
        if self._field is not None:
            self._form.fields[self._field] = self._text.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True
