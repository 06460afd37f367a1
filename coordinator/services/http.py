"""HTTP ports of the coordinator: health on one, metrics on another.

Owns routes and sockets. Serves on the loop it is called on and leaves the process's signals alone.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from coordinator.metrics import Metrics


def health_app(ready: Callable[[], bool]) -> Starlette:
    """/healthz answers while the loop turns; /readyz answers 503 unless `ready`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("stopping\n", 503)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])


def metrics_app(metrics: Metrics) -> Starlette:
    """/metrics in Prometheus' exposition formats."""

    async def exposition(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", exposition)])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, port 0 for any. OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: whoever runs the loop decides when to stop."""
        yield


async def serve(app: ASGIApp, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve this app until `stop` is set; calls that are open then get one second."""
    server = _Server(
        uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
        )
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listening]))
        await stop.wait()
        server.should_exit = True
