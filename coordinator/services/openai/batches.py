"""/v1/batches: files of requests, done when there is time."""

from typing import Any

from coordinator.batch import Batch, Order, Status
from coordinator.batches import Batches
from coordinator.core.events import JobId
from coordinator.refusal import Refusal
from coordinator.services.openai.batch_readers import READERS
from coordinator.services.openai.bodies import read
from coordinator.services.openai.call import Answer, Call, answer
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.files import EXPIRES
from coordinator.services.openai.keys import KEYED, idempotency_key
from coordinator.services.openai.operation import Operation
from coordinator.services.openai.pages import asked, listed, query, told
from coordinator.services.openai.schema import Schema
from coordinator.units import seconds
from coordinator.wire import job_name

_MOST_WINDOW_S = 30 * 86_400.0

_METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"type": "string", "maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
"""As with OpenAI."""

_BODY: Schema = {
    "type": "object",
    "properties": {
        "input_file_id": {"type": "string", "minLength": 1, "maxLength": 100},
        "endpoint": {"enum": [*READERS]},
        "completion_window": {"type": "string", "minLength": 2, "maxLength": 40},
        "metadata": _METADATA,
        "output_expires_after": {
            "type": "object",
            "properties": {"anchor": {"enum": ["created_at"]}, "seconds": EXPIRES},
            "required": ["anchor", "seconds"],
        },
    },
    "required": ["input_file_id", "endpoint", "completion_window"],
}
_TIME: Schema = {"type": ["integer", "null"]}
_NAME: Schema = {"type": ["string", "null"]}
_TIMES = tuple(f"{status.value}_at" for status in Status if status is not Status.VALIDATING)
BATCH: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["batch"]},
        "endpoint": {"enum": [*READERS]},
        "model": _NAME,
        "errors": {"type": ["object", "null"]},
        "input_file_id": {"type": "string"},
        "completion_window": {"type": "string"},
        "status": {"enum": [status.value for status in Status]},
        "output_file_id": _NAME,
        "error_file_id": _NAME,
        "created_at": {"type": "integer"},
        "expires_at": {"type": "integer"},
        **dict.fromkeys(_TIMES, _TIME),
        "request_counts": {
            "type": "object",
            "properties": {name: {"type": "integer"} for name in ("total", "completed", "failed")},
            "required": ["total", "completed", "failed"],
        },
        "metadata": {"type": ["object", "null"]},
        "carpool": {
            "type": "object",
            "properties": {"job_id": _NAME, "expected_at": _TIME, "on_time": {"type": ["number", "null"]}},
        },
    },
    "required": [
        *(
            "id",
            "object",
            "endpoint",
            "input_file_id",
            "completion_window",
            "status",
            "created_at",
            "request_counts",
        ),
    ],
}
_QUERY = {name: schema for name, schema in query(20, 100).items() if name in ("limit", "after", "order")}


class BatchCalls:
    """Takes batches in and tells how far they are."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def operations(self) -> list[Operation]:
        """Its rows of the table of routes."""
        return [
            Operation(
                *("POST", "/v1/batches", "Do the requests of a file", self._create, BATCH, _BODY),
                headers=KEYED,
                refuses=(Refusal.NOT_FOUND, Refusal.ALREADY_EXISTS, Refusal.OVERLOADED),
            ),
            Operation("GET", "/v1/batches", "Batches, the newest first", self._list, listed(BATCH), query=_QUERY),
            Operation("GET", "/v1/batches/{id}", "One of them", self._one, BATCH),
            Operation(
                *("POST", "/v1/batches/{id}/cancel", "End a batch", self._cancel, BATCH),
                refuses=(Refusal.ALREADY_EXISTS,),  # it has ended
            ),
        ]

    async def _create(self, call: Call) -> Answer:
        key = idempotency_key(call)
        body = await read(call, _BODY)
        expires_s = body.get("output_expires_after", {}).get("seconds")
        order = Order(
            body["endpoint"],
            body["input_file_id"],
            body["completion_window"],
            _window_s(body["completion_window"]),
            body.get("metadata"),
            expires_s,
        )
        return answer(shape(await self._batches.create(call.tenant, order, key)))

    async def _list(self, call: Call) -> Answer:
        page = asked(call, _QUERY)
        found = await self._batches.page(call.tenant, page.limit + 1, page.after, oldest_first=page.oldest_first)
        return told(found, page, shape)

    async def _one(self, call: Call) -> Answer:
        return answer(shape(await self._batches.get(call.tenant, call.path["id"])))

    async def _cancel(self, call: Call) -> Answer:
        return answer(shape(await self._batches.cancel(call.tenant, call.path["id"])))


def _window_s(text: str) -> float:
    try:
        window_s = seconds(text)
    except ValueError as error:
        raise BadField("completion_window", f"completion_window is no duration: {error}") from None
    if not 1.0 <= window_s <= _MOST_WINDOW_S:
        raise BadField("completion_window", f"completion_window is {text!r}; give 1s to 30d")
    return window_s


def shape(batch: Batch) -> dict[str, Any]:
    """A batch as clients read it."""
    errors = None
    if batch.wrong:
        data = [
            {"code": wrong.code, "message": wrong.message, "param": wrong.param, "line": wrong.line}
            for wrong in batch.wrong
        ]
        errors = {"object": "list", "data": data}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.order.endpoint,
        "model": batch.model or None,
        "errors": errors,
        "input_file_id": batch.order.input_file_id,
        "completion_window": batch.order.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created),
        "expires_at": int(batch.expires),
        **{f"{status.value}_at": batch.at.get(status.value) for status in Status if f"{status.value}_at" in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.order.metadata,
        "carpool": {
            "job_id": job_name(JobId(batch.job)) if batch.job else None,
            "expected_at": None if batch.expected is None else int(batch.expected),
            "on_time": batch.on_time,
        },
    }
