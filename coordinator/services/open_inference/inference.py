"""One request of the protocol, from its tensors to its answer, through the same path as every other front's."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter

from coordinator.errors import Failure
from coordinator.refusal import Refused, refused
from coordinator.runtime import Runtime
from coordinator.services.edge import refuse
from coordinator.services.open_inference.envelope import InferAnswer, InferRequest
from coordinator.services.open_inference.parameters import Parameters, read_parameters
from coordinator.services.open_inference.payloads import answers, check_best, payloads, spoken
from coordinator.services.open_inference.signatures import VERSION, check_version, signature
from coordinator.services.open_inference.tensors import Tensor, name_tensors, read_tensors
from coordinator.streams import Ending, Part
from coordinator.wire import OfferedModel
from protos import open_inference_pb2 as pb2

_API = "open_inference"

FINAL = "triton_final_response"
"""The parameter of a stream's responses that says whether one is the last of its request."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A request that was read and found sound."""

    model: OfferedModel
    decoupled: bool
    given: Tensor
    items: Sequence[bytes]
    wanted: list[str]
    best: dict[str, int]  # outputs that are to tell so many classes as text
    parameters: Parameters
    reading_s: float

    @property
    def value(self) -> float:
        return self.parameters.worth * len(self.items)


class Inference:
    """Requests of tenants."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def answer(self, tenant: str, request: InferRequest, remaining_s: float | None) -> InferAnswer:
        """The whole answer; cancelling the call gives the vehicle free."""
        asked = self._read(request, remaining_s)
        if not asked.decoupled:
            return await self._run(tenant, request.message.id, asked)
        text, end = [], None
        async with aclosing(self._saying(tenant, asked)) as saying:
            async for said in saying:
                if isinstance(said, Ending):
                    end = said
                else:
                    text.append(said.text)
        started_s = perf_counter()
        return self._respond(request.message.id, asked, spoken("".join(text), end, asked.wanted), started_s)

    async def pieces(
        self, tenant: str, request: InferRequest, remaining_s: float | None
    ) -> AsyncGenerator[InferAnswer]:
        """The answer as it is made, its last response marked; one response if the model is not decoupled."""
        asked, request_id = self._read(request, remaining_s), request.message.id
        del request  # what it brought is not kept while its answer waits to be read
        if not asked.decoupled:
            response = await self._run(tenant, request_id, asked)
            del asked
            response.message.parameters[FINAL].bool_param = True
            yield response
            return
        place, infer_s = 0, 0.0  # of the response that comes next: computed for it so far
        took = self._runtime.requests.statistics.of(asked.model.name).response
        try:
            async with aclosing(self._saying(tenant, asked)) as saying:
                async for said in saying:
                    started_s = perf_counter()
                    if isinstance(said, Part):
                        infer_s += said.busy_s
                        tensors = spoken(said.text, None, asked.wanted) if said.text else []
                        if not tensors:
                            continue
                        response, final = _response(request_id, asked, tensors), False
                    else:
                        tensors, final = spoken("", said, asked.wanted), not asked.parameters.empty_final
                        response = self._respond(request_id, asked, tensors, started_s)
                    response.message.parameters[FINAL].bool_param = final
                    took(place).tell(infer_s, perf_counter() - started_s)
                    place, infer_s = place + 1, 0.0
                    yield response
        except Refused:
            took(place).fail.add(infer_s)
            raise
        if asked.parameters.empty_final:
            response = _response(request_id, asked, ())
            response.message.parameters[FINAL].bool_param = True
            took(place).empty.add(infer_s)
            yield response

    def _read(self, whole: InferRequest, remaining_s: float | None) -> _Read:
        started_s, request = perf_counter(), whole.message
        model = self._runtime.catalogue.offered(request.model_name)
        check_version(model.name, request.model_version)
        told = signature(model)
        parameters = read_parameters(request, model.kind, remaining_s)
        wanted = told.wanted(request.outputs)
        best = {}
        for output in request.outputs:
            for name in output.parameters:
                if name != "classification":
                    raise refuse(
                        f"output {output.name!r} has the parameter {name!r}; only classification is known here, and"
                        " no shared memory"
                    )
                choice = output.parameters[name].WhichOneof("parameter_choice")
                best[output.name] = check_best(
                    output.name, getattr(output.parameters[name], choice) if choice else None
                )
        given = told.one(read_tensors(request, whole.raw))
        items = payloads(model.kind, given, parameters.text)
        reading_s = perf_counter() - started_s
        return _Read(model, told.decoupled, given, items, wanted, best, parameters, reading_s)

    async def _run(self, tenant: str, request_id: str, asked: _Read) -> InferAnswer:
        results = []
        for row, answer in enumerate(
            await self._runtime.requests.run(
                tenant, _API, asked.model.name, asked.items, asked.parameters.timeout_s, asked.value
            )
        ):
            if isinstance(answer, Failure):
                raise refused(answer, f"row {row} of input {asked.given.name!r}")
            results.append(answer)
        started_s = perf_counter()
        tensors = answers(asked.model, asked.given, results, asked.wanted, asked.best)
        return self._respond(request_id, asked, tensors, started_s)

    def _saying(self, tenant: str, asked: _Read) -> AsyncGenerator[Part | Ending]:
        (payload,) = asked.items
        return self._runtime.requests.generate(
            tenant, _API, asked.model.name, payload, asked.parameters.timeout_s, asked.value
        )

    def _respond(self, request_id: str, asked: _Read, tensors: Sequence[Tensor], started_s: float) -> InferAnswer:
        """The last response of a request that succeeded."""
        response = _response(request_id, asked, tensors)
        batch = self._runtime.requests.statistics.of(asked.model.name).batch(len(asked.items))
        batch.input.seconds += asked.reading_s
        batch.output.add(perf_counter() - started_s)
        return response


def _response(request_id: str, asked: _Read, tensors: Sequence[Tensor]) -> InferAnswer:
    response = pb2.ModelInferResponse(model_name=asked.model.name, model_version=VERSION, id=request_id)
    name_tensors(response, tensors)
    return InferAnswer(response, [tensor.raw for tensor in tensors])
