"""A raw `grpc.aio` server that answers JobService.Run with its input: the floor that dispatch is compared with.

`python -m benchmarks.echo` prints `echo ready grpc=HOST:PORT` and serves until its standard input ends. It takes
and gives the messages of the real service, so one client measures both.
"""

import asyncio
import os
import sys

# As in the coordinator, which says why: the floor gets what the house has. Before grpc is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")

import grpc

from coordinator.client import OPTIONS
from protos import jobs_pb2

_Context = grpc.aio.ServicerContext[jobs_pb2.RunRequest, jobs_pb2.RunResponse]


async def _run(request: jobs_pb2.RunRequest, context: _Context) -> jobs_pb2.RunResponse:
    return jobs_pb2.RunResponse(results=[jobs_pb2.ItemResult(payload=item) for item in request.items])


async def _serve() -> None:
    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(
        _run, jobs_pb2.RunRequest.FromString, jobs_pb2.RunResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("carpool.v1.JobService", {"Run": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo ready grpc=127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
