"""What every gRPC handler has around it: reading, the caller's key, one table of statuses, and metrics."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from coordinator.keys import LOCAL_TENANT, Keys, Role
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused

_LOG = logging.getLogger(__name__)

_BEGINNING_BYTES, _END_BYTES = 1_600, 800
"""Of a message that is too long for a status."""

Context = grpc.aio.ServicerContext[Any, Any]

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs only

_MAKERS: dict[tuple[bool, bool], Callable[..., "Handler"]] = {  # by whether requests and answers are streams
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


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


def handlers(of: ServiceDescriptor, service: object, bare: Collection[str] = ()) -> dict[str, "Handler"]:
    """The methods of a service by name, as gRPC calls them. Those in `bare` get bytes and give bytes; to others
    bytes that are no request come as the refusal to raise: see `unary`, `streaming` and `sound`."""
    return {method.name: _handler(method, service, method.name in bare) for method in of.methods}


def _handler(method: MethodDescriptor, service: object, bare: bool) -> "Handler":
    make, call = _MAKERS[method.client_streaming, method.server_streaming], getattr(service, method.name)
    if bare:
        return make(call)
    return make(
        call,
        request_deserializer=_reading(GetMessageClass(method.input_type)),
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )


def _reading(kind: type[Message]) -> Callable[[bytes], Message | Refused]:
    def read_or_refuse(data: bytes) -> Message | Refused:  # what is raised here gRPC tells as Python's own error
        try:
            return kind.FromString(data)
        except DecodeError:
            return unreadable(data, kind)

    return read_or_refuse


def unreadable(data: bytes, kind: type[Message]) -> Refused:
    """The refusal of bytes that are no request of this kind."""
    return refuse(f"the {len(data)} bytes that came are no {kind.DESCRIPTOR.name}; mend the client")


async def sound(requests: AsyncIterator["Asked"]) -> AsyncGenerator["Asked"]:
    """A stream of requests; refused at the first that could not be read."""
    async for request in requests:
        if isinstance(request, Refused):
            raise request
        yield request


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
                if isinstance(asked, Refused):  # as above
                    raise asked
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


async def begin(context: Context) -> None:
    """Begin an answer that has no message yet. Raises CancelledError as `tell` does."""
    try:
        await context.send_initial_metadata(())
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
