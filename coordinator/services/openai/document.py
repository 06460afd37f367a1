"""/openapi.json and /docs: the table of operations, for programs and for people."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from coordinator.services.openai.call import REQUEST_ID, Answer, Call
from coordinator.services.openai.errors import described as described_error
from coordinator.services.openai.operation import Operation
from coordinator.services.openai.schema import Schema, wanted


class Document:
    """What is served, described."""

    def __init__(self, table: Sequence[Operation], keyed: bool) -> None:
        """`keyed`: whether keys are asked for."""
        self._json = json.dumps(_openapi(table, keyed), indent=1).encode()
        self._page = _page(table).encode()

    def operations(self) -> list[Operation]:
        """Its own row, which it does not describe."""
        return [
            Operation("GET", "/openapi.json", "This interface, for programs", self._as_json, open=True),
            Operation("GET", "/docs", "This interface, for people", self._as_page, open=True),
        ]

    async def _as_json(self, call: Call) -> Answer:
        return Answer(self._json)

    async def _as_page(self, call: Call) -> Answer:
        return Answer(self._page, content_type=b"text/html; charset=utf-8")


def _openapi(table: Sequence[Operation], keyed: bool) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    errors = set[HTTPStatus]()
    for operation in table:
        ok, *others = operation.statuses(keyed)
        errors.update(others)
        described = _described(operation, keyed)
        described["responses"] = {str(ok.value): _answer(operation)} | {
            str(status.value): {"$ref": f"#/components/responses/{status.name}"} for status in others
        }
        paths.setdefault(_plain(operation.path), {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Carpool",
            "version": version("carpool"),
            "description": "Models that parked cars run, for clients of OpenAI.",
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {status.name: _error(status) for status in sorted(errors)},
        },
        "paths": paths,
    }


def _answer(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {operation.content_type: {"schema": operation.answers}}
    if operation.streams:
        content["text/event-stream"] = {}
    return {"description": "well", "headers": _headers({}), "content": content}


def _error(status: HTTPStatus) -> dict[str, Any]:
    schema, waits = described_error(status)
    return {
        "description": status.phrase,
        "headers": _headers(waits),
        "content": {"application/json": {"schema": schema}},
    }


def _headers(numbers: Mapping[str, bool]) -> dict[str, Any]:
    """Of such answers: its id, and these, which are whole numbers, each with whether every answer has it."""
    told: dict[str, Any] = {"x-request-id": {"required": True, "schema": REQUEST_ID}}
    return told | {
        name: {"required": always, "schema": {"type": "integer", "minimum": 0}} for name, always in numbers.items()
    }


def _described(operation: Operation, keyed: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.summary, "operationId": operation.label}
    if keyed and not operation.open:
        described["security"] = [{"key": []}]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)", operation.path)
    ]
    parameters += [
        {"name": name, "in": place, "schema": schema}
        for place, known in (("query", operation.query), ("header", operation.headers))
        for name, schema in known.items()
    ]
    if parameters:
        described["parameters"] = parameters
    body = None if operation.body is None else _with_null(operation.body)
    for kind, schema in (("application/json", body), ("multipart/form-data", operation.form)):
        if schema is not None:
            described["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return described


def _with_null(schema: Schema) -> Schema:
    """The schema of a JSON body as it is read: a field that is null counts for left out."""
    fields = {
        name: known if name in schema.get("required", ()) else {"anyOf": [known, {"type": "null"}]}
        for name, known in schema.get("properties", {}).items()
    }
    return {**schema, "properties": fields}


def _plain(path: str) -> str:
    """A path as OpenAPI writes it: "/v1/models/{id}" for "/v1/models/{id:path}"."""
    return re.sub(r":\w+\}", "}", path)


def _page(table: Sequence[Operation]) -> str:
    rows = "".join(_row(operation) for operation in table)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Carpool</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}code{white-space:nowrap}</style>"
        "<h1>Carpool for clients of OpenAI</h1>"
        "<p>The same for programs: <a href=/openapi.json>/openapi.json</a>.</p>"
        f"{rows}</html>\n"
    )


def _row(operation: Operation) -> str:
    schema = operation.body or operation.form or {}
    needed = schema.get("required", ())
    fields = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{'needed' if name in needed else ''}<td>{escape(wanted(known))}"
        for name, known in {**schema.get("properties", {}), **operation.query, **operation.headers}.items()
    )
    table = f"<table><tr><th>field<th><th>takes{fields}</table>" if fields else ""
    name = f"{operation.method} {_plain(operation.path)}"
    return f"<h2><code>{escape(name)}</code></h2><p>{escape(operation.summary)}.</p>{table}"
