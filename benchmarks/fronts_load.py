"""Callers of a front, in a process of their own: each waits for its answer before it asks again.

`python -m benchmarks.fronts_load` reads commands from its standard input, a JSON object a line: `front` ("grpc",
"open_inference", "openai", "small", "tensor"), `target`, `width` and `seconds`. For each it prints a JSON object:
`per_s`, and lists of milliseconds, `total` and `model`, of every request. gRPC is spoken by bare stubs on one
channel, HTTP by `keep_alive` on a connection for each caller. "small" and "tensor" go through Open Inference to a
model that echoes.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from random import Random

# As in the coordinator, which says why. Before grpc is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")

import grpc

from benchmarks.cluster import START_S
from benchmarks.figures import BenchmarkFailed
from benchmarks.keep_alive import Connection
from benchmarks.timer import took_ms
from protos import jobs_pb2, jobs_pb2_grpc, open_inference_pb2

MODEL = "noop"
LARGE = "tensor"
"""The name of the load of large tensors."""
WARM_UP_S = 0.5
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
_INFER = "/inference.GRPCInferenceService/ModelInfer"
SMALL_VALUES, TENSOR_VALUES = 32, 16_000_000
"""Of float32: 128 bytes and 64 MB."""
_TEXT = "Is the car at the far end of the lot still plugged in, and for how long?"

Call = Callable[[], Awaitable[float]]
"""One request; milliseconds that the model took, by its answer."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to do."""

    front: str
    target: str
    width: int
    seconds: float


@dataclass(slots=True)
class Heard:
    """What came of it, milliseconds of every request."""

    per_s: float = 0.0
    total: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)

    @property
    def added(self) -> list[float]:
        """What the front, the way there and back, and the client took of each."""
        return [total - model for total, model in zip(self.total, self.model, strict=True)]


async def bear(load: Load) -> Heard:
    """Carry out one command, after a warm-up. BenchmarkFailed when an answer is none."""
    async with AsyncExitStack() as exits:
        calls = await _FRONTS[load.front](exits, load)
        heard = Heard()
        try:
            if load.front != LARGE:  # one of which outlasts it
                await asyncio.gather(*(_caller(call, min(WARM_UP_S, load.seconds), Heard()) for call in calls))
            begun_s = time.perf_counter()
            await asyncio.gather(*(_caller(call, load.seconds, heard) for call in calls))
        except (grpc.aio.AioRpcError, OSError, EOFError, ValueError, LookupError) as error:
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            raise BenchmarkFailed(f"a call of {load.front} failed: {details}") from None
        heard.per_s = len(heard.total) / (time.perf_counter() - begun_s)
    return heard


async def _caller(call: Call, seconds: float, heard: Heard) -> None:
    clock = time.perf_counter
    now_s = clock()
    until_s = now_s + seconds
    while now_s < until_s:
        model_ms = await call()
        then_s, now_s = now_s, clock()
        heard.total.append(1e3 * (now_s - then_s))
        heard.model.append(model_ms)


async def _channel(exits: AsyncExitStack, target: str) -> grpc.aio.Channel:
    channel = await exits.enter_async_context(grpc.aio.insecure_channel(target, _OPTIONS))
    await asyncio.wait_for(channel.channel_ready(), START_S)
    return channel


async def _grpc(exits: AsyncExitStack, load: Load) -> list[Call]:
    """JobService.Run."""
    stub: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(await _channel(exits, load.target))
    request = jobs_pb2.RunRequest(model=MODEL, items=(_TEXT.encode(),))

    async def call() -> float:
        (result,) = (await stub.Run(request)).results
        return took_ms(result.payload)

    return [call] * load.width


async def _openai(exits: AsyncExitStack, load: Load) -> list[Call]:
    """POST /v1/embeddings."""
    body = json.dumps({"model": MODEL, "input": _TEXT, "encoding_format": "float"}).encode()

    def caller(connection: Connection) -> Call:
        request = connection.request("/v1/embeddings", body)

        async def call() -> float:
            answer = json.loads(await connection.post(request))
            model_ms: float = answer["data"][0]["embedding"][0]
            return model_ms

        return call

    calls = []
    for _ in range(load.width):
        connection = await Connection.open(load.target)
        exits.push_async_callback(connection.close)
        calls.append(caller(connection))
    return calls


async def _open_inference(exits: AsyncExitStack, load: Load) -> list[Call]:
    """ModelInfer of a text, which comes raw, as NumPy's arrays do."""
    infer = _infer(await _channel(exits, load.target))
    text = _TEXT.encode()
    request = open_inference_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[
            open_inference_pb2.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
        ],
        raw_input_contents=[len(text).to_bytes(4, "little") + text],
    )

    async def call() -> float:
        (vector,) = (await infer(request)).raw_output_contents
        return took_ms(vector)

    return [call] * load.width


async def _tensor(exits: AsyncExitStack, load: Load) -> list[Call]:
    """ModelInfer of a large tensor."""
    return await _echoed(exits, load, TENSOR_VALUES)


async def _small(exits: AsyncExitStack, load: Load) -> list[Call]:
    """ModelInfer of a small one."""
    return await _echoed(exits, load, SMALL_VALUES)


async def _echoed(exits: AsyncExitStack, load: Load, size: int) -> list[Call]:
    """ModelInfer of a tensor, of which all comes back."""
    infer = _infer(await _channel(exits, load.target))
    tensor = open_inference_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[size])
    values = Random(64).randbytes(4 * size)
    request = open_inference_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[values])

    async def call() -> float:
        (same,) = (await infer(request)).raw_output_contents
        if same != values:
            raise BenchmarkFailed("a tensor came back as another")
        return 0.0

    return [call] * load.width


def _infer(
    channel: grpc.aio.Channel,
) -> grpc.aio.UnaryUnaryMultiCallable[open_inference_pb2.ModelInferRequest, open_inference_pb2.ModelInferResponse]:
    """Under the public name, which the generated stub does not have."""
    return channel.unary_unary(
        _INFER,
        open_inference_pb2.ModelInferRequest.SerializeToString,
        open_inference_pb2.ModelInferResponse.FromString,
    )


_FRONTS = {"grpc": _grpc, "open_inference": _open_inference, "openai": _openai, "small": _small, LARGE: _tensor}


def main() -> None:
    """Until standard input ends."""
    for line in sys.stdin:
        try:
            answer = asdict(asyncio.run(bear(Load(**json.loads(line)))))
        except BenchmarkFailed as failed:
            answer = {"failed": str(failed)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
