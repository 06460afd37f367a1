"""LinkService: the streams of the lots. Reads facts in, writes orders out."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from time import monotonic

import grpc

from coordinator.keys import Role
from coordinator.link import Link
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, begin, refuse, sound
from coordinator.wire import Outgoing, Terms, facts, joined, offered_models, partials, payloads, response
from protos import link_pb2, link_pb2_grpc

_LOG = logging.getLogger(__name__)

# Least time between two writes to a lot, for each client that waits: rows travel together. With 64 clients that is
# 12 rows a message instead of 2, and 680 us of processor time a request instead of 1,070 (all processes, measured).
_PACE_S, _LONGEST_PACE_S = 0.0004, 0.016
_MESSAGE_BYTES = 1 << 20  # inputs in one message, about: a long one holds up what is behind it
_MESSAGE_ORDERS = 64  # in one message: what waits for the inputs of a grant is to wait for few


class LinkService(link_pb2_grpc.LinkServiceServicer):
    """One call for each lot, for as long as it is there."""

    def __init__(self, runtime: Runtime, edge: Edge, terms: Terms, joins_per_s: int) -> None:
        """Of the lots that come within a second, more than `joins_per_s` are told when to come back."""
        self._runtime = runtime
        self.edge = edge
        self._terms = terms
        self._joins_per_s = joins_per_s
        self._second = -1  # in which the following came
        self._came = 0

    async def Connect(  # type: ignore[override]  # the stub knows no handler that writes by itself
        self, request_iterator: AsyncIterator[link_pb2.ConnectRequest], context: Context
    ) -> None:
        """Serve one lot until its stream ends, however it ends."""
        try:
            self.edge.caller(context, Role.NODE)
            self._admit()
            requests = sound(request_iterator)
            hello = await anext(requests, None)
            if hello is None or not hello.HasField("hello"):
                raise refuse("a lot's first message carries its hello")
            link = self._join(hello.hello)
        except Refused as refused:
            await context.abort(refused.refusal.status, str(refused), refused.trailing_metadata)
        self.edge.metrics.begin_rpc("LinkService/Connect")
        started_s = monotonic()
        goodbye = False
        try:
            await begin(context)  # a status that comes while the first message begins the answer is never sent
            self._receive(link, hello)
            reading = asyncio.create_task(self._read(link, requests))
            writing = asyncio.create_task(self._write(link, context))
            try:
                await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
                goodbye = reading.done() and not reading.cancelled() and reading.exception() is None
                goodbye = goodbye and reading.result()
                if goodbye:
                    return
                error = next((task.exception() for task in (reading, writing) if task.done()), None)
                if isinstance(error, Refused):
                    await context.abort(error.refusal.status, str(error), error.trailing_metadata)
                elif error is not None and not isinstance(error, grpc.aio.AioRpcError | asyncio.CancelledError):
                    _LOG.error("the stream of lot %s broke", link.name, exc_info=error)
                    await context.abort(grpc.StatusCode.INTERNAL, "the link failed inside the coordinator")
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this link is broken; connect again")
            finally:
                reading.cancel()
                writing.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)
        finally:
            self._runtime.lots.leave(link, goodbye)
            code = "OK" if goodbye else "UNAVAILABLE"
            self.edge.metrics.end_rpc("LinkService/Connect", code, monotonic() - started_s)

    def _admit(self) -> None:
        """After a restart all lots come at once: spread those over the time that all of them take."""
        second = int(monotonic())
        if second != self._second:
            self._second, self._came = second, 0
        self._came += 1
        if self._came > self._joins_per_s:
            seconds = self._came / self._joins_per_s
            raise Refused(
                Refusal.OVERLOADED,
                f"{self._came} lots came within a second, the limit is {self._joins_per_s}; come back later",
                retry_after_s=random.uniform(0.5, 0.5 + seconds),
            )

    def _join(self, hello: link_pb2.Hello) -> Link:
        lot, rows = self._runtime.roster.enter(hello.lot_id, [vehicle.name for vehicle in hello.vehicles])
        link = Link(hello.lot_id, joined(hello, lot, rows))
        self._runtime.lots.join(link)
        return link

    async def _read(self, link: Link, requests: AsyncIterator[link_pb2.ConnectRequest]) -> bool:
        """Hand everything a lot says to the runtime; True when it said goodbye."""
        async for request in requests:
            self._receive(link, request)
            if request.HasField("goodbye"):
                return True
        return False

    def _receive(self, link: Link, request: link_pb2.ConnectRequest) -> None:
        runtime = self._runtime
        for model in offered_models(request):
            runtime.catalogue.add(model)
        if request.partials:
            runtime.requests.hear(link.lot, partials(request))
        serial = runtime.keep(payloads(request, runtime.staging.take))
        runtime.post(*facts(request, link.joined, serial, monotonic(), self._terms))

    async def _write(self, link: Link, context: Context) -> None:
        """Write orders as they come, those that wait together."""
        runtime = self._runtime
        while waiting := await link.take(_MESSAGE_ORDERS, _MESSAGE_BYTES):
            inputs = await runtime.inputs.of_orders(waiting)
            orders = [
                Outgoing(queued.order, of_it, queued.said)
                for queued, of_it in zip(waiting, inputs, strict=True)
                if of_it is not None
            ]
            if orders:
                await context.write(response(orders, runtime.roster.index, self._terms))
            if len(runtime.requests) > 1:
                await asyncio.sleep(min(_PACE_S * len(runtime.requests), _LONGEST_PACE_S))
