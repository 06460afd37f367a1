"""A raw `grpc.aio` server that answers JobService.Run and ModelInfer with their input: the floor that ours are
compared with.

`python -m benchmarks.echo` prints `echo ready grpc=HOST:PORT` and serves until its standard input ends. It takes
and gives the messages of the real service, so one client measures both. With `--timer` it answers with the model of
1 ms in its place.
"""

import asyncio
import os
import sys

# As in the coordinator, which says why: the floor gets what the house has. Before grpc is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")

import grpc

from benchmarks.timer import result, wait_s
from coordinator.client import OPTIONS
from protos import jobs_pb2, open_inference_pb2

_Context = grpc.aio.ServicerContext[jobs_pb2.RunRequest, jobs_pb2.RunResponse]


async def _run(request: jobs_pb2.RunRequest, context: _Context) -> jobs_pb2.RunResponse:
    return jobs_pb2.RunResponse(results=[jobs_pb2.ItemResult(payload=item) for item in request.items])


async def _wait(request: jobs_pb2.RunRequest, context: _Context) -> jobs_pb2.RunResponse:
    return jobs_pb2.RunResponse(results=[jobs_pb2.ItemResult(payload=result(await wait_s()))])


async def _infer(
    request: open_inference_pb2.ModelInferRequest,
    context: grpc.aio.ServicerContext[open_inference_pb2.ModelInferRequest, open_inference_pb2.ModelInferResponse],
) -> open_inference_pb2.ModelInferResponse:
    return open_inference_pb2.ModelInferResponse(raw_output_contents=request.raw_input_contents)


async def _serve() -> None:
    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(
        _wait if "--timer" in sys.argv else _run,
        jobs_pb2.RunRequest.FromString,
        jobs_pb2.RunResponse.SerializeToString,
    )
    infer = grpc.unary_unary_rpc_method_handler(
        _infer,
        open_inference_pb2.ModelInferRequest.FromString,
        open_inference_pb2.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("carpool.v1.JobService", {"Run": handler}),
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": infer}),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo ready grpc=127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
