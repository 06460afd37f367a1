"""HTTP ports of the coordinator: health on one, metrics on another.

Owns routes and sockets. Serves on the loop it is called on and leaves the process's signals alone.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from coordinator.metrics import Metrics
from coordinator.services.connection import DEAF_S, HEAD_S, Connection

_WAITING = 4096
"""Connections that the system keeps until they are taken; it may allow fewer."""
_TAKEN_AT_ONCE = 32
"""Of these in one turn of the loop, about 2 ms of it."""

_KEEP_ALIVE_S = 75.0
"""A connection without a call is kept so long: longer than clients keep one, lest they call as it is closed."""


def health_routes(ready: Callable[[], bool]) -> list[Route]:
    """/healthz answers while the loop turns; /readyz answers 503 unless `ready`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("stopping\n", 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def metrics_app(metrics: Metrics) -> Starlette:
    """/metrics in Prometheus' exposition formats."""

    async def exposition(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", exposition)])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, port 0 for any. OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=_WAITING)
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_WAITING)  # by now as few may wait as are taken at once

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: whoever runs the loop decides when to stop."""
        yield


async def serve(
    app: ASGIApp, listening: socket.socket, stop: asyncio.Event, head_s: float = HEAD_S, deaf_s: float = DEAF_S
) -> None:
    """Serve this app until `stop` is set; calls that are open then get one second.

    A connection is closed when no complete head of a request has come on it within `head_s`, and when its reader
    has taken nothing of what waits for it within `deaf_s`.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what it would say, any caller can provoke
    server = _Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(Connection, head_s=head_s, deaf_s=deaf_s)),
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            backlog=_TAKEN_AT_ONCE,
            timeout_keep_alive=round(_KEEP_ALIVE_S),
            timeout_graceful_shutdown=1,
        )
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listening]))
        await stop.wait()
        server.should_exit = True
