"""/v1/files: what batches read and write."""

import asyncio
from typing import Any

from coordinator.batches import INPUT
from coordinator.files import File, Files
from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import Answer, Call, answer
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.keys import KEYED, idempotency_key
from coordinator.services.openai.multipart import Form, read_form
from coordinator.services.openai.operation import Operation
from coordinator.services.openai.pages import asked, listed, query, told
from coordinator.services.openai.schema import Schema, check

_PIECE_BYTES = 1 << 18
_MOST_NAME = 255  # characters

EXPIRES: Schema = {"type": "integer", "minimum": 3600, "maximum": 2_592_000}
"""Seconds that a file may be kept: an hour to thirty days, as with OpenAI."""

FILE: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["file"]},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer"},
        "expires_at": {"type": "integer"},
        "filename": {"type": "string"},
        "purpose": {"type": "string"},
        "status": {"enum": ["processed"]},
    },
    "required": ["id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status"],
}
_FORM: Schema = {
    "type": "object",
    "properties": {
        "purpose": {"enum": [INPUT]},
        "file": {"type": "string", "format": "binary", "minLength": 1},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": EXPIRES,
    },
    "propertyNames": {"minLength": 1},
    "required": ["purpose", "file"],
}
_DELETED: Schema = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "object": {"enum": ["file"]}, "deleted": {"enum": [True]}},
    "required": ["id", "object", "deleted"],
}
_QUERY = query(10_000, 10_000)


class FileCalls:
    """Takes files in and gives them out."""

    def __init__(self, files: Files, most_bytes: int) -> None:
        """`most_bytes` of one file."""
        self._files = files
        self._most_bytes = most_bytes

    def operations(self) -> list[Operation]:
        """Its rows of the table of routes."""
        content = "/v1/files/{id}/content"
        return [
            Operation(
                *("POST", "/v1/files", "Send a file", self._add, FILE),
                form=_FORM,
                headers=KEYED,
                refuses=(Refusal.ALREADY_EXISTS, Refusal.OVERLOADED, Refusal.OVER_QUOTA),
            ),
            Operation("GET", "/v1/files", "Files, the newest first", self._list, listed(FILE), query=_QUERY),
            Operation("GET", "/v1/files/{id}", "One of them", self._one, FILE),
            Operation(
                *("DELETE", "/v1/files/{id}", "Forget a file", self._delete, _DELETED),
                refuses=(Refusal.ALREADY_EXISTS,),  # a batch reads it
            ),
            Operation(
                *("GET", content, "What is in a file", self._content, {}),
                content_type="application/octet-stream",
            ),
        ]

    async def _add(self, call: Call) -> Answer:
        key = idempotency_key(call)
        async with self._files.draft(call.tenant) as draft:
            form = await read_form(call, self._most_bytes, lambda data: self._files.write(draft, data))
            name, expires_s = _checked(form)
            file = await self._files.add(call.tenant, draft, name, form.fields["purpose"], expires_s, key)
        return answer(shape(file))

    async def _list(self, call: Call) -> Answer:
        page = asked(call, _QUERY)
        found = await self._files.page(
            call.tenant, page.limit + 1, page.after, oldest_first=page.oldest_first, purpose=page.purpose
        )
        return told(found, page, shape)

    async def _one(self, call: Call) -> Answer:
        return answer(shape(await self._files.get(call.tenant, call.path["id"])))

    async def _delete(self, call: Call) -> Answer:
        await self._files.delete(call.tenant, call.path["id"])
        return answer({"id": call.path["id"], "object": "file", "deleted": True})

    async def _content(self, call: Call) -> None:
        file, content = await self._files.opened(call.tenant, call.path["id"])
        try:
            await call.begin(b"application/octet-stream", file.bytes)
            left = file.bytes
            while True:
                piece = await asyncio.to_thread(content.read, _PIECE_BYTES)
                left -= len(piece)
                if left and not piece:
                    raise Refused(Refusal.DAMAGED, f"{file.id} has lost its last {left} bytes")
                await call.write(piece, last=not left)
                if not left:
                    return
        finally:
            content.close()


def _checked(form: Form) -> tuple[str, float | None]:
    """The file's name, and how long it is to be kept."""
    if form.filename is None:
        raise BadField("file", "the form has no field `file`; send one")
    fields: dict[str, Any] = {"file": form.filename or "file", **form.fields}
    seconds = fields.get("expires_after[seconds]")
    if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 10:
        fields["expires_after[seconds]"] = int(seconds)
    check(fields, _FORM)
    if not form.size:
        raise BadField("file", "the file is empty; send one with something in it")
    name = form.filename.replace("\\", "/").rpartition("/")[2] or "file"
    if len(name) > _MOST_NAME:
        raise BadField("file", f"the file's name has {len(name)} characters; the limit is {_MOST_NAME}: shorten it")
    return name, fields.get("expires_after[seconds]")


def shape(file: File) -> dict[str, Any]:
    """A file as clients read it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
