"""Operations: what one path does for each method, and what every call has around it: key, errors, metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import Any

from starlette.types import Receive, Scope, Send

from coordinator.keys import Keys, Role
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import PATIENCE_S, Answer, Call

_LOG = logging.getLogger(__name__)

Schema = Mapping[str, Any]
Handler = Callable[[Call], Awaitable[Answer | None]]

_ALWAYS = frozenset({Refusal.FAILED, Refusal.UNAVAILABLE})
_WITH_A_KEY = frozenset({Refusal.NO_KEY, Refusal.NOT_ALLOWED})
_WITH_A_BODY = frozenset({Refusal.BAD_INPUT, Refusal.TOO_SLOW, Refusal.TOO_LARGE, Refusal.WRONG_FORM})


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. The handler returns its answer, or None when it wrote a stream."""

    method: str
    path: str  # as in "/v1/models/{id}"
    summary: str
    handler: Handler
    answers: Mapping[str, Any] = field(default_factory=dict)  # schema of a good answer
    body: Schema | None = None  # schema of a JSON body; None: it takes none
    form: Schema | None = None  # schema of a multipart body
    query: Mapping[str, Schema] = field(default_factory=dict)  # parameters behind the question mark
    headers: Mapping[str, Schema] = field(default_factory=dict)  # that the handler reads
    refuses: Collection[Refusal] = ()  # by the handler, beside what all with such a path, body or key are
    streams: bool = False  # the answer may be told as it is made, as server-sent events
    open: bool = False  # no key is asked for
    content_type: str = "application/json"  # of a good answer

    @property
    def label(self) -> str:
        """Its name in metrics."""
        return f"{self.method} {self.path}"

    def statuses(self, keyed: bool) -> list[HTTPStatus]:
        """All that an answer of it may have; `keyed`: whether keys are asked for here."""
        refusals = {*self.refuses, *_ALWAYS}
        if keyed and not self.open:
            refusals |= _WITH_A_KEY
        if self.body is not None or self.form is not None:
            refusals |= _WITH_A_BODY
        if self.query or self.headers:
            refusals.add(Refusal.BAD_INPUT)
        if "{" in self.path:
            refusals.add(Refusal.NOT_FOUND)
        return [HTTPStatus.OK, *sorted({HTTPStatus(refusal.http_status) for refusal in refusals})]


class Endpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(
        self, operations: Sequence[Operation], keys: Keys, metrics: Metrics, patience_s: float = PATIENCE_S
    ) -> None:
        """`patience_s` stands in place of PATIENCE_S."""
        self.path = operations[0].path
        self._by_method = {operation.method: operation for operation in operations}
        if "GET" in self._by_method:
            self._by_method["HEAD"] = self._by_method["GET"]
        self._keys = keys
        self._metrics = metrics
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call; ends quietly when its client goes."""
        call = Call(scope, receive, send, self._patience_s)
        operation = self._by_method.get(scope["method"])
        label = operation.label if operation is not None else f"other {self.path}"
        connection = scope.get("state", {}).get("connection")
        if connection is not None:
            connection.task = asyncio.current_task()
        code, started_s = "OK", perf_counter()
        self._metrics.begin_rpc(label)
        try:
            try:
                if operation is None:
                    code = Refusal.WRONG_METHOD.status.name
                    return await self._wrong_method(call, scope["method"])
                if not operation.open:
                    call.tenant = self._tenant(call)
                given = await operation.handler(call)
                if given is not None:
                    await call.give(given)
            except Refused as refused:
                code = refused.refusal.status.name
                if operation is not None and refused.refusal.http_status not in operation.statuses(keyed=True):
                    _LOG.error("%s answers %s, which its description leaves out", label, refused.refusal.name)
                await call.refuse(refused)
            except Exception:
                code = "INTERNAL"
                _LOG.exception("%s failed, request %s", label, call.request_id)
                message = f"{label} failed inside the coordinator; its log says more of request {call.request_id}"
                await call.refuse(Refused(Refusal.FAILED, message))
        except asyncio.CancelledError:
            code = "CANCELLED"
            if connection is None or not connection.gone:  # the server stops
                message = "the coordinator is shutting down; ask again when it is back"
                await call.refuse(Refused(Refusal.UNAVAILABLE, message))
                raise
        finally:
            if connection is not None:
                connection.task = None
            self._metrics.end_rpc(label, code, perf_counter() - started_s)

    async def _wrong_method(self, call: Call, method: str) -> None:
        known = ", ".join(self._by_method)
        message = f"{method} is not served on {self.path}; it takes {known}"
        await call.refuse(Refused(Refusal.WRONG_METHOD, message), (b"allow", known.encode()))

    def _tenant(self, call: Call) -> str:
        """The name of who calls."""
        authorization = call.header("authorization")
        try:
            return self._keys.holder(authorization, Role.TENANT)
        except Refused:
            self._metrics.count_auth_failure("refused" if authorization else "missing")
            raise
