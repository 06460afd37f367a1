"""POST /v1/embeddings beside the coordinator: a second process that asks it by JobService.Run.

`python -m benchmarks.http_relay GRPC_TARGET` prints `relay ready http=HOST:PORT` and serves until its standard
input ends. It is what a front outside the coordinator would be at the least: it checks no key, keeps no books, and
reads one text. So it flatters a process of its own, if anything.
"""

import asyncio
import json
import os
import socket
import sys

# As in the coordinator, which says why. Before grpc is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")

import grpc
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.timer import document
from coordinator.client import OPTIONS
from coordinator.services.http import listen
from protos import jobs_pb2, jobs_pb2_grpc


class Relay:
    """The application."""

    def __init__(self, stub: "jobs_pb2_grpc.JobServiceAsyncStub") -> None:
        self._stub = stub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = json.loads(body)
        request = jobs_pb2.RunRequest(model=asked["model"], items=(asked["input"].encode(),))
        (result,) = (await self._stub.Run(request)).results
        answer = document(result.payload, asked["model"])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _serve(target: str) -> None:
    async with grpc.aio.insecure_channel(target, OPTIONS) as channel:
        stub: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
        listening = listen("127.0.0.1", 0)
        # Accepted sockets have it then, too; without, a body waits until its head is acknowledged.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(
            uvicorn.Config(Relay(stub), lifespan="off", log_config=None, access_log=False, ws="none")
        )
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        print(f"relay ready http=127.0.0.1:{listening.getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
