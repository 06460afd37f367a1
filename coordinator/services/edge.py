"""What every gRPC handler has around it: the caller's key, one table of statuses, and metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from time import perf_counter
from typing import Any, Protocol, TypeVar

import grpc

from coordinator.keys import LOCAL_TENANT, Keys, Role
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused

_LOG = logging.getLogger(__name__)

_BEGINNING_BYTES, _END_BYTES = 1_600, 800
"""Of a message that is too long for a status."""

Context = grpc.aio.ServicerContext[Any, Any]


class Edge:
    """Checks keys and counts calls."""

    def __init__(self, keys: Keys, metrics: Metrics) -> None:
        self._keys = keys
        self.metrics = metrics

    def caller(self, context: Context, role: Role) -> str:
        """The name of who calls; refused without a key of this role."""
        if self._keys.holders is None:
            return LOCAL_TENANT
        metadata = dict(context.invocation_metadata() or ())
        try:
            return self._keys.holder(str(metadata.get("authorization", "")), role)
        except Refused as refused:
            self.metrics.count_auth_failure("missing" if "authorization" not in metadata else "refused")
            raise refused


class Service(Protocol):
    """Anything whose handlers stand behind an edge."""

    edge: Edge


S = TypeVar("S", bound=Service)
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


def unary(
    method: str,
) -> Callable[
    [Callable[[S, Asked, Context], Awaitable[Answered]]], Callable[[S, Asked, Context], Awaitable[Answered]]
]:
    """A handler that answers once, or writes its answers itself; `method` is its label, as in "JobService/Run"."""

    def around(
        handler: Callable[[S, Asked, Context], Awaitable[Answered]],
    ) -> Callable[[S, Asked, Context], Awaitable[Answered]]:
        @wraps(handler)
        async def call(self: S, asked: Asked, context: Context) -> Answered:
            code, started_s = "OK", perf_counter()
            self.edge.metrics.begin_rpc(method)
            try:
                if isinstance(asked, Refused):  # it could not be read
                    raise asked
                return await handler(self, asked, context)
            except Exception as error:
                status, message, trailing = _status(error, method)
                code = status.name
                await context.abort(status, message, trailing)
                raise AssertionError("abort raises") from error
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                self.edge.metrics.end_rpc(method, code, perf_counter() - started_s)

        return call

    return around


def streaming(
    method: str,
) -> Callable[
    [Callable[[S, Asked, Context], AsyncIterator[Answered]]],
    Callable[[S, Asked, Context], AsyncIterator[Answered]],
]:
    """A handler that answers with a stream; `method` is its label."""

    def around(
        handler: Callable[[S, Asked, Context], AsyncIterator[Answered]],
    ) -> Callable[[S, Asked, Context], AsyncIterator[Answered]]:
        @wraps(handler)
        async def call(self: S, asked: Asked, context: Context) -> AsyncIterator[Answered]:
            code, started_s = "OK", perf_counter()
            self.edge.metrics.begin_rpc(method)
            try:
                async for answered in handler(self, asked, context):
                    yield answered
            except Exception as error:
                status, message, trailing = _status(error, method)
                code = status.name
                await context.abort(status, message, trailing)
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            finally:
                self.edge.metrics.end_rpc(method, code, perf_counter() - started_s)

        return call

    return around


async def tell(context: Context, message: object) -> None:
    """Write one message of an answer. Raises CancelledError when the caller has gone: gRPC may find that out within
    the write, before it cancels the call."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _status(error: Exception, method: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    if isinstance(error, Refused):
        return error.refusal.status, _fitted(str(error)), error.trailing_metadata
    _LOG.exception("%s failed", method)
    return grpc.StatusCode.INTERNAL, f"{method} failed inside the coordinator; its log says more", ()


def _fitted(message: str) -> str:
    """A sentence without its middle, if that names something long: who is sent over 8 KiB of status, in which a
    byte takes up to three, hears of gRPC's own limits instead."""
    told = message.encode(errors="replace")
    if len(told) <= _BEGINNING_BYTES + _END_BYTES:
        return message
    return f"{told[:_BEGINNING_BYTES].decode(errors='ignore')} ... {told[-_END_BYTES:].decode(errors='ignore')}"


def refuse(message: str) -> Refused:
    """Bad input, with one sentence."""
    return Refused(Refusal.BAD_INPUT, message)
