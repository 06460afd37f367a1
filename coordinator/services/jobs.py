"""JobService: what tenants call."""

from array import array
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import monotonic

from coordinator.batches import KEYS
from coordinator.config import LimitSettings
from coordinator.core import views
from coordinator.core.effects import Outcome
from coordinator.core.plan import Quote
from coordinator.errors import Failure
from coordinator.items import LENGTH, Items
from coordinator.keys import Role
from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.services.edge import Context, Edge, refuse, sound, streaming, tell, unary
from coordinator.store import Intake
from coordinator.streams import Ending, Part
from coordinator.wire import job_name, job_number
from protos import jobs_pb2, jobs_pb2_grpc

_API = "grpc"
_LEAST, _MOST = 1e-9, 1e12  # of what a job and its items may be said to be worth
_MOST_RUN_ITEMS = 64
_MOST_KEY_BYTES = 256
_PART_BYTES = 1 << 20


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """Jobs of the tenant that the key names."""

    def __init__(self, runtime: Runtime, edge: Edge, limits: LimitSettings) -> None:
        self._runtime = runtime
        self.edge = edge
        self._limits = limits

    @unary("JobService/Run")
    async def Run(self, request: jobs_pb2.RunRequest, context: Context) -> jobs_pb2.RunResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        inputs = list(request.items)
        if len(inputs) > _MOST_RUN_ITEMS:
            raise refuse(f"{len(inputs)} items in one call; the limit is {_MOST_RUN_ITEMS}: submit a batch job")
        timeout_s = context.time_remaining()
        answers = await self._runtime.requests.run(tenant, _API, request.model, inputs, timeout_s)
        return jobs_pb2.RunResponse(results=[_item_result(answer) for answer in answers])

    @unary("JobService/Generate")
    async def Generate(  # type: ignore[override]  # it writes by itself: so a caller that leaves is noticed at once
        self, request: jobs_pb2.GenerateRequest, context: Context
    ) -> None:
        tenant = self.edge.caller(context, Role.TENANT)
        timeout_s = context.time_remaining()
        saying = self._runtime.requests.generate(tenant, _API, request.model, request.payload, timeout_s)
        async with aclosing(saying):
            async for said in saying:
                await tell(context, self._said(said))

    @unary("JobService/SubmitJob")
    async def SubmitJob(
        self, request_iterator: AsyncIterator[jobs_pb2.SubmitJobRequest], context: Context
    ) -> jobs_pb2.SubmitJobResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        header: jobs_pb2.JobHeader | None = None
        intake: Intake | None = None
        async for request in sound(request_iterator):
            if header is None or intake is None:
                header = self._header(request)
                intake = self._runtime.submissions.intake(header.model)
            elif not request.items.lengths:
                raise refuse("a message of the submission brings no items; send at least one with each")
            brought = _items(request.items)
            items, size = intake.items + len(brought), intake.bytes + len(brought.payload)
            if items > header.items or size > self._limits.job_bytes:
                limit = f"{header.items} announced items and {self._limits.job_bytes} bytes"
                raise refuse(f"the job brings {items} items and {size} bytes; the limit is {limit}: split it")
            await self._runtime.submissions.take_in(intake, brought)
        if header is None or intake is None:
            raise refuse("a submission begins with a header; none came")
        if intake.items != header.items:
            raise refuse(f"the header announces {header.items} items, {intake.items} came; submit again")
        job, existed = await self._runtime.submissions.submit(
            tenant,
            _API,
            intake,
            key=header.idempotency_key,
            deadline_s=header.deadline_s,
            value=header.value,
            item_work=header.item_work or 1.0,
            least_on_time=header.least_on_time,
        )
        return jobs_pb2.SubmitJobResponse(job=self._job(await self._runtime.jobs.get(tenant, job)), existed=existed)

    @unary("JobService/GetJob")
    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        view = await self._runtime.jobs.get(tenant, job_number(request.job_id))
        return jobs_pb2.GetJobResponse(job=self._job(view))

    @unary("JobService/ListJobs")
    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        jobs = await self._runtime.jobs.newest(tenant, request.limit or 100)
        return jobs_pb2.ListJobsResponse(jobs=[self._job(view) for view in jobs])

    @unary("JobService/CancelJob")
    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.CancelJobResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        view = await self._runtime.jobs.cancel(tenant, job_number(request.job_id))
        return jobs_pb2.CancelJobResponse(job=self._job(view))

    @unary("JobService/ExplainJob")
    async def ExplainJob(
        self, request: jobs_pb2.ExplainJobRequest, context: Context
    ) -> jobs_pb2.ExplainJobResponse:
        tenant = self.edge.caller(context, Role.TENANT)
        sentences = await self._runtime.jobs.explain(tenant, job_number(request.job_id))
        return jobs_pb2.ExplainJobResponse(sentences=sentences)

    @streaming("JobService/StreamResults")
    async def StreamResults(
        self, request: jobs_pb2.StreamResultsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.StreamResultsResponse]:
        tenant = self.edge.caller(context, Role.TENANT)
        job = job_number(request.job_id)
        async for first, part, view in self._runtime.jobs.results(tenant, job, request.first_item, _PART_BYTES):
            failed = [
                jobs_pb2.FailedItem(item=item, failure=_failure(failure)) for item, failure in part.failures.items()
            ]
            yield jobs_pb2.StreamResultsResponse(
                first_item=first, payloads=part.payloads, failed=failed, job=self._job(view)
            )

    @unary("JobService/ListModels")
    async def ListModels(
        self, request: jobs_pb2.ListModelsRequest, context: Context
    ) -> jobs_pb2.ListModelsResponse:
        self.edge.caller(context, Role.TENANT)
        models = [
            jobs_pb2.Model(
                name=model.name,
                kind=model.kind,
                digest=model.digest,
                max_item_bytes=model.max_item_bytes,
                nodes=self._runtime.vehicles.capable(model.name),
                input_shape=model.input_shape,
                output_shape=model.output_shape,
                context_tokens=model.context_tokens,
            )
            for _, model in sorted(self._runtime.catalogue.models.items())
        ]
        return jobs_pb2.ListModelsResponse(models=models)

    def _said(self, said: Part | Ending) -> jobs_pb2.GenerateResponse:
        if isinstance(said, Part):
            vehicle = self._runtime.roster.names[said.vehicle]
            usage = jobs_pb2.Usage(prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens)
            return jobs_pb2.GenerateResponse(
                tokens=said.tokens, text=said.text, vehicle=vehicle, usage=usage, likelihoods=said.likelihoods
            )
        usage = jobs_pb2.Usage(prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens)
        return jobs_pb2.GenerateResponse(finish_reason=said.finish_reason, usage=usage)

    def _job(self, view: views.JobView) -> jobs_pb2.Job:
        spec = view.spec
        model, quote = self._runtime.catalogue.models.get(spec.model), self._runtime.jobs.quotes.get(spec.job)
        return jobs_pb2.Job(
            job_id=job_name(spec.job),
            model=spec.model,
            job_class=jobs_pb2.JOB_CLASS_INTERACTIVE if spec.interactive else jobs_pb2.JOB_CLASS_BATCH,
            state=_state(view),
            items=spec.items,
            items_done=view.done,
            items_failed=view.failed,
            items_leased=view.lent,
            age_s=view.age_s,
            deadline_s=view.deadline_in_s if spec.deadline_s != float("inf") else 0.0,
            nodes_at_work=view.nodes,
            idempotency_key=spec.key,
            kind=model.kind if model else "",
            quote=_quote(quote) if quote is not None else None,
        )

    def _header(self, request: jobs_pb2.SubmitJobRequest) -> jobs_pb2.JobHeader:
        header = request.header
        if not request.HasField("header"):
            raise refuse("a submission begins with a header; the first message has none")
        if not 0 < header.items <= self._limits.job_items:
            raise Refused(
                Refusal.BAD_INPUT, f"the job has {header.items} items; it may have 1 to {self._limits.job_items}"
            )
        if len(header.idempotency_key.encode()) > _MOST_KEY_BYTES:
            raise refuse(f"the idempotency key is longer than {_MOST_KEY_BYTES} bytes; shorten it")
        if header.idempotency_key.startswith(KEYS):
            raise refuse(f"the idempotency key begins with {KEYS!r}, as those of batches do; take another")
        if not 0 <= header.deadline_s < float("inf"):
            raise refuse(f"deadline_s is {header.deadline_s:g}; give a number of at least 0; 0 means none")
        for name, given in (("value", header.value), ("item_work", header.item_work)):
            if given != 0 and not _LEAST <= given <= _MOST:
                raise refuse(f"{name} is {given:g}; give a number from {_LEAST:g} to {_MOST:g}, or 0 for the usual")
        if not 0 <= header.least_on_time <= 1:
            raise refuse(f"least_on_time is {header.least_on_time:g}; give a chance from 0 to 1")
        return header


def _quote(quote: Quote) -> jobs_pb2.Quote:
    finish_s = quote.finish_s - monotonic() if quote.finish_s < float("inf") else 0.0
    return jobs_pb2.Quote(finish_s=finish_s, on_time=quote.on_time)


def _items(message: jobs_pb2.Items) -> Items:
    items = Items(message.payload, array(LENGTH, message.lengths))
    if sum(items.lengths) != len(items.payload):
        raise refuse(
            f"the lengths of a message's items add up to {sum(items.lengths)}, and its payload has "
            f"{len(items.payload)} bytes; make them equal"
        )
    return items


def _state(view: views.JobView) -> jobs_pb2.JobState.ValueType:
    if view.ended is Outcome.DONE:
        return jobs_pb2.JOB_STATE_DONE
    if view.ended is not None:
        return jobs_pb2.JOB_STATE_CANCELLED
    return jobs_pb2.JOB_STATE_RUNNING if view.done or view.lent or view.failed else jobs_pb2.JOB_STATE_PENDING


def _item_result(answer: bytes | Failure) -> jobs_pb2.ItemResult:
    if isinstance(answer, bytes):
        return jobs_pb2.ItemResult(payload=answer)
    return jobs_pb2.ItemResult(failure=_failure(answer))


def _failure(failure: Failure) -> jobs_pb2.Failure:
    return jobs_pb2.Failure(code=failure.code, message=failure.message)
