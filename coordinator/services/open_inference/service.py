"""GRPCInferenceService: the calls of the protocol."""

from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

from coordinator.keys import Role
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, unary
from coordinator.services.open_inference.envelope import closed, opened
from coordinator.services.open_inference.inference import Inference
from coordinator.services.open_inference.signatures import VERSION, check_version, config, metadata
from coordinator.services.open_inference.streams import InferenceStream
from coordinator.statistics import BatchStatistics, ModelStatistics, ResponseStatistics, Spent
from protos import open_inference_pb2 as pb2

_EXTENSIONS = (
    *("classification", "model_configuration", "model_repository", "parameters", "schedule_policy", "statistics"),
)


class OpenInferenceService:
    """Models as tensors in and tensors out."""

    def __init__(self, runtime: Runtime, edge: Edge, ready: Callable[[], bool]) -> None:
        """`ready` tells whether new requests are taken."""
        self._runtime = runtime
        self._catalogue = runtime.catalogue
        self._inference = Inference(runtime)
        self._ready = ready
        self.edge = edge

    # The server: who asks whether it is there needs no key, as for its health.

    @unary("GRPCInferenceService/ServerLive")
    async def ServerLive(self, request: pb2.ServerLiveRequest, context: Context) -> pb2.ServerLiveResponse:
        return pb2.ServerLiveResponse(live=True)

    @unary("GRPCInferenceService/ServerReady")
    async def ServerReady(self, request: pb2.ServerReadyRequest, context: Context) -> pb2.ServerReadyResponse:
        return pb2.ServerReadyResponse(ready=self._ready())

    @unary("GRPCInferenceService/ServerMetadata")
    async def ServerMetadata(
        self, request: pb2.ServerMetadataRequest, context: Context
    ) -> pb2.ServerMetadataResponse:
        self.edge.caller(context, Role.TENANT)
        return pb2.ServerMetadataResponse(name="carpool", version=version("carpool"), extensions=_EXTENSIONS)

    # Models

    @unary("GRPCInferenceService/ModelReady")
    async def ModelReady(self, request: pb2.ModelReadyRequest, context: Context) -> pb2.ModelReadyResponse:
        self.edge.caller(context, Role.TENANT)
        ready = request.version in ("", VERSION) and not self._lacking(request.name)
        return pb2.ModelReadyResponse(ready=ready)

    @unary("GRPCInferenceService/ModelMetadata")
    async def ModelMetadata(self, request: pb2.ModelMetadataRequest, context: Context) -> pb2.ModelMetadataResponse:
        self.edge.caller(context, Role.TENANT)
        model = self._catalogue.known(request.name)
        check_version(request.name, request.version)
        return metadata(model)

    @unary("GRPCInferenceService/ModelConfig")
    async def ModelConfig(self, request: pb2.ModelConfigRequest, context: Context) -> pb2.ModelConfigResponse:
        self.edge.caller(context, Role.TENANT)
        model = self._catalogue.known(request.name)
        check_version(request.name, request.version)
        return pb2.ModelConfigResponse(config=config(model))

    @unary("GRPCInferenceService/ModelInfer")
    async def ModelInfer(self, request: bytes, context: Context) -> bytes:
        tenant = self.edge.caller(context, Role.TENANT)
        answered = await self._inference.answer(tenant, await opened(request), context.time_remaining())
        return await closed(answered)

    @unary("GRPCInferenceService/ModelStreamInfer")
    async def ModelStreamInfer(self, request_iterator: AsyncIterator[bytes], context: Context) -> None:
        tenant = self.edge.caller(context, Role.TENANT)
        await InferenceStream(self._inference, tenant, context).serve(request_iterator)

    @unary("GRPCInferenceService/ModelStatistics")
    async def ModelStatistics(
        self, request: pb2.ModelStatisticsRequest, context: Context
    ) -> pb2.ModelStatisticsResponse:
        self.edge.caller(context, Role.TENANT)
        if request.name:
            self._catalogue.known(request.name)
        check_version(request.name, request.version)
        names = [request.name] if request.name else sorted(self._catalogue.models)
        statistics = self._runtime.requests.statistics
        return pb2.ModelStatisticsResponse(model_stats=[_told(name, statistics.of(name)) for name in names])

    # The repository: what the vehicles have

    @unary("GRPCInferenceService/RepositoryIndex")
    async def RepositoryIndex(
        self, request: pb2.RepositoryIndexRequest, context: Context
    ) -> pb2.RepositoryIndexResponse:
        self.edge.caller(context, Role.TENANT)
        _check_repository(request.repository_name)
        response = pb2.RepositoryIndexResponse()
        for name in sorted(self._catalogue.models):
            lacking = self._lacking(name)
            if not (lacking and request.ready):
                state = "UNAVAILABLE" if lacking else "READY"
                response.models.add(name=name, version=VERSION, state=state, reason=lacking)
        return response

    @unary("GRPCInferenceService/RepositoryModelLoad")
    async def RepositoryModelLoad(
        self, request: pb2.RepositoryModelLoadRequest, context: Context
    ) -> pb2.RepositoryModelLoadResponse:
        self.edge.caller(context, Role.OPERATOR)
        _check_repository(request.repository_name)
        for name in request.parameters:
            raise refuse(
                f"loading with the parameter {name!r} is not offered here; add the model with `carpool models add`"
                " where its vehicles' lots run, and start them again"
            )
        self._catalogue.load(request.model_name)
        return pb2.RepositoryModelLoadResponse()

    @unary("GRPCInferenceService/RepositoryModelUnload")
    async def RepositoryModelUnload(
        self, request: pb2.RepositoryModelUnloadRequest, context: Context
    ) -> pb2.RepositoryModelUnloadResponse:
        self.edge.caller(context, Role.OPERATOR)
        _check_repository(request.repository_name)
        for name in request.parameters:
            if name != "unload_dependents":  # no model here has any
                raise refuse(f"unloading takes no parameter {name!r}; leave it out")
        self._catalogue.unload(request.model_name)
        return pb2.RepositoryModelUnloadResponse()

    def _lacking(self, model: str) -> str:
        """Why a model takes no requests; empty: it does."""
        if model in self._catalogue.unloaded:
            return "unloaded; RepositoryModelLoad makes it take requests again"
        return "" if self._runtime.vehicles.capable(model) else "no vehicle here offers it now"


def _check_repository(name: str) -> None:
    if name:
        raise refuse(f"there is no repository {name!r}, only one without a name; leave it empty")


def _told(name: str, statistics: ModelStatistics) -> pb2.ModelStatistics:
    return pb2.ModelStatistics(
        name=name,
        version=VERSION,
        last_inference=round(1000 * statistics.last_s),
        inference_count=statistics.items,
        execution_count=statistics.success.count,
        inference_stats=pb2.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_input=_duration(statistics.all(lambda batch: batch.input)),
            compute_infer=_duration(statistics.all(lambda batch: batch.infer)),
            compute_output=_duration(statistics.all(lambda batch: batch.output)),
        ),
        batch_stats=[_batch(items, batch) for items, batch in sorted(statistics.batches.items())],
        response_stats={str(place): _responses(one) for place, one in enumerate(statistics.responses)},
    )


def _batch(items: int, statistics: BatchStatistics) -> pb2.InferBatchStatistics:
    return pb2.InferBatchStatistics(
        batch_size=items,
        compute_input=_duration(statistics.input),
        compute_infer=_duration(statistics.infer),
        compute_output=_duration(statistics.output),
    )


def _responses(statistics: ResponseStatistics) -> pb2.InferResponseStatistics:
    return pb2.InferResponseStatistics(
        compute_infer=_duration(statistics.infer),
        compute_output=_duration(statistics.output),
        success=_duration(statistics.success),
        fail=_duration(statistics.fail),
        empty_response=_duration(statistics.empty),
    )


def _duration(spent: Spent) -> pb2.StatisticDuration:
    return pb2.StatisticDuration(count=spent.count, ns=round(1e9 * spent.seconds))
