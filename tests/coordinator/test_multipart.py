"""Forms that no client of ours sends."""

import asyncio

import pytest
from starlette.types import Message

from coordinator.refusal import Refused
from coordinator.services.openai.call import Call
from coordinator.services.openai.multipart import Form, read_form


def form(body: bytes, boundary: str = "b") -> Form:
    """What is read of a call with this body."""
    kind = f"multipart/form-data; boundary={boundary}".encode()
    scope = {"type": "http", "path": "/v1/files", "headers": [(b"content-type", kind)]}

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def write(data: bytes) -> None:
        assert data

    return asyncio.run(read_form(Call(scope, receive, send), 1 << 20, write))


def field(name: str, text: str = "x") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()


@pytest.mark.parametrize(
    ("body", "boundary", "told"),
    [
        (b"", "b" * 1000, "the form cannot be read: Boundary length 1000 exceeds"),
        (field("a") * 33 + b"--b--\r\n", "b", "the form has over 32 fields, the limit; send fewer"),
        (field("a"), "b", "the form ends before its last boundary; send all of it"),
        (field("") + b"--b--\r\n", "b", "a field without a name"),
        (field("file") * 2 + b"--b--\r\n", "b", "two fields `file`"),
        (field("a", "x" * 70_000) + b"--b--\r\n", "b", "the field 'a' has over 65536 bytes"),
        (b"no form", "b", "the form cannot be read"),
    ],
)
def test_a_form_that_cannot_be_read_is_told_why(body: bytes, boundary: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        form(body, boundary)


def test_a_form_is_read_with_the_name_and_the_size_of_its_file() -> None:
    file = field('file"; filename="ä.jsonl', "12345")
    read = form(field("purpose", "batch") + file + b"--b--\r\n")
    assert (read.fields, read.filename, read.size) == ({"purpose": "batch"}, "ä.jsonl", 5)
