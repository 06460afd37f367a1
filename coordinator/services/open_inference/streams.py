"""ModelStreamInfer: many requests in one stream, each answered as soon as it can be. Knows no tensor.

A caller that does not read holds up only itself: what is in flight for one stream is bounded, and no more is read
from it until there is room.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

from coordinator.refusal import Refused
from coordinator.services.edge import Context, tell
from coordinator.services.open_inference.envelope import InferAnswer, closed_streamed, opened
from coordinator.services.open_inference.inference import Inference
from protos import open_inference_pb2 as pb2

_LOG = logging.getLogger(__name__)

_ROOM = 128
_UNIT_BYTES = 1 << 16
"""A request in flight takes room for one, and for one more for each 64 KiB that it brings: a stream holds at most
128 requests that bring 8 MB, or one that brings more, or their answers, and one request that waits for more room.
Assumed: load generators have at most so many open in a stream."""


class InferenceStream:
    """One stream of one tenant."""

    def __init__(self, inference: Inference, tenant: str, context: Context) -> None:
        self._inference = inference
        self._tenant = tenant
        self._context = context
        self._room = asyncio.Semaphore(_ROOM)
        self._writing = asyncio.Lock()

    async def serve(self, requests: AsyncIterator[bytes]) -> None:
        """Answer all; ends when the caller sends no more and has every answer."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._room.acquire()  # for one, before it is read; nobody else takes room
                request = await anext(requests, None)
                if request is None:
                    return
                weight = min(_ROOM, 1 + len(request) // _UNIT_BYTES)
                for _ in range(weight - 1):
                    await self._room.acquire()
                tasks.create_task(self._answer(request, weight))
                del request

    async def _answer(self, request: bytes, weight: int) -> None:
        named = pb2.ModelInferResponse()  # which request it is, for refusals: nothing until it was read
        try:
            asked = await opened(request)
            message = asked.message
            named.model_name, named.model_version, named.id = message.model_name, message.model_version, message.id
            pieces = self._inference.pieces(self._tenant, asked, self._context.time_remaining())
            del request, asked, message  # what it brought is not kept while its answer waits to be read
            async with aclosing(pieces):
                async for piece in pieces:
                    await self._write(piece)
        except Refused as refused:
            await self._write(_refusal(named, str(refused)))
        except Exception:
            _LOG.exception("a request of ModelStreamInfer failed")
            await self._write(_refusal(named, "the request failed inside the coordinator; its log says more"))
        finally:
            for _ in range(weight):
                self._room.release()

    async def _write(self, response: InferAnswer | pb2.ModelStreamInferResponse) -> None:
        async with self._writing:  # gRPC takes one message at a time
            await tell(self._context, await closed_streamed(response))


def _refusal(named: pb2.ModelInferResponse, message: str) -> pb2.ModelStreamInferResponse:
    return pb2.ModelStreamInferResponse(error_message=message, infer_response=named)
