"""The callers' side of the wire: one gRPC channel, Carpool's own types, one error.

Owns calling, chunking, coming back to a broken stream, and the words for what went wrong. Knows no files and
prints nothing. The command line, the benchmarks and the tests call the coordinator through it.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import grpc
from grpc.aio import AioRpcError

from coordinator.errors import CarpoolError, Failure
from coordinator.items import MESSAGE_BYTES
from coordinator.refusal import REFUSAL_KEY
from protos import fleet_pb2, fleet_pb2_grpc, jobs_pb2, jobs_pb2_grpc

ANSWER_S = 30.0  # a short call that takes longer has failed
SILENCE_S = 15.0  # a stream of results speaks every second; one silent for so long is dead
PATIENCE_S = 30.0  # how long a broken stream of results is tried again
CHUNK_BYTES = 1024 * 1024  # payload bytes of one message of a submission
CHUNK_ITEMS = 16_384  # items of one message of a submission
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # every client its own connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # what one attempt may take; a busy machine needs seconds
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that some vehicle offers. `kind`: embed, generate, classify or echo."""

    name: str
    kind: str
    digest: str
    max_item_bytes: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job could expect when it was submitted."""

    finish_s: float  # from now, seconds; 0 when nobody could say
    on_time: float  # chance that it is done by its deadline


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the coordinator sees it now. Seconds are from now; `deadline_s` is 0 when there is none."""

    job_id: str
    model: str
    kind: str
    job_class: str  # interactive, batch
    state: str  # pending, running, done, cancelled
    items: int
    items_done: int
    items_failed: int
    items_leased: int
    nodes_at_work: int
    age_s: float
    deadline_s: float
    idempotency_key: str
    quote: Quote | None  # None: nobody knows any more


@dataclass(frozen=True, slots=True)
class Node:
    """One vehicle as the coordinator sees it now."""

    name: str
    profile: str
    lot_id: str
    state: str  # idle, busy, cordoned, withdrawn, away
    window_s: float
    share: float
    leases: int
    items_done: int
    departures: int
    heartbeat_age_s: float
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Results of items [first_item, first_item + len(payloads)), maybe none, and the job's progress."""

    first_item: int
    payloads: Sequence[bytes]
    failures: Mapping[int, Failure]  # by index in the job; their payload is empty
    job: Job


@dataclass(frozen=True, slots=True)
class Said:
    """What came of an answer since the last; the last has a finish_reason, and maybe no text.

    The counts are of the prompt and of the answer so far, as far as they are known.
    """

    text: str
    tokens: Sequence[int]
    vehicle: str  # that said it
    finish_reason: str = ""  # "stop" or "length"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    likelihoods: Sequence[bytes] = ()  # of each token, as in OpenAI's `logprobs.content`, JSON, if asked for


class Client:
    """One caller's connection to the coordinator at `target` ("HOST:PORT"), an async context manager.

    Every call raises CarpoolError, and nothing else, when the coordinator refuses or is not there.
    """

    def __init__(self, target: str, api_key: str = "") -> None:
        self.target = check_target(target)
        if not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip():
            raise CarpoolError("the API key may hold printable ASCII only, without spaces around it")
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.target, options=OPTIONS)
        self._jobs: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(self._channel)
        self._fleet: fleet_pb2_grpc.FleetServiceAsyncStub = fleet_pb2_grpc.FleetServiceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(None)

    async def run(
        self, model: str, items: Sequence[bytes], timeout_s: float | None = None
    ) -> list[bytes | Failure]:
        """The results of one interactive job of 1 to 64 items, in order."""
        request = jobs_pb2.RunRequest(model=model, items=items)
        with self._explained():
            response = await self._jobs.Run(request, timeout=timeout_s, metadata=self._metadata)
        return [
            Failure(result.failure.code, result.failure.message) if result.HasField("failure") else result.payload
            for result in response.results
        ]

    async def generate(self, model: str, payload: bytes, timeout_s: float | None = None) -> AsyncGenerator[Said]:
        """One answer as it is made; `payload` is the body of a chat completion. Closing the generator ends it."""
        request = jobs_pb2.GenerateRequest(model=model, payload=payload)
        call = self._jobs.Generate(request, timeout=timeout_s, metadata=self._metadata)
        begun = complete = False
        try:
            async for part in call:
                begun, complete = True, bool(part.finish_reason)
                usage = part.usage
                yield Said(
                    part.text,
                    part.tokens,
                    part.vehicle,
                    part.finish_reason,
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    tuple(part.likelihoods),
                )
        except AioRpcError as error:
            if not begun or error.code() not in _GONE:
                raise self._explain(error) from None
        finally:
            call.cancel()
        if not complete:
            raise CarpoolError(
                f"the coordinator at {self.target} went away during the answer; ask again when it is back",
                exit_code=1,
            )

    async def submit(
        self,
        model: str,
        items: Collection[bytes],
        *,
        idempotency_key: str = "",
        deadline_s: float = 0.0,
        value: float = 0.0,
        item_work: float = 0.0,
        least_on_time: float = 0.0,
    ) -> tuple[Job, bool]:
        """Record a batch job of these items; True: the key was known, and this is the job it named."""
        header = jobs_pb2.JobHeader(
            model=model,
            idempotency_key=idempotency_key,
            deadline_s=deadline_s,
            value=value,
            items=len(items),
            item_work=item_work,
            least_on_time=least_on_time,
        )
        for last_try in (False, False, True):
            broken: list[CarpoolError] = []  # while the items were read
            try:
                response = await self._jobs.SubmitJob(_chunks(header, items, broken), metadata=self._metadata)
            except AioRpcError as error:
                # A refusal that meets a message on its way may read so: nothing is recorded, ask once more.
                if last_try or error.details() != "Internal error from Core":
                    raise self._explain(error) from None
            except asyncio.CancelledError:
                if broken:
                    raise broken[0] from None
                raise
            else:
                return _job(response.job), response.existed
        raise AssertionError("the last try returns or raises")

    async def job(self, job_id: str) -> Job:
        """The job as it is now."""
        request = jobs_pb2.GetJobRequest(job_id=job_id)
        with self._explained():
            response = await self._jobs.GetJob(request, timeout=ANSWER_S, metadata=self._metadata)
        return _job(response.job)

    async def jobs(self, limit: int = 100) -> list[Job]:
        """The caller's latest jobs, newest first."""
        request = jobs_pb2.ListJobsRequest(limit=limit)
        with self._explained():
            response = await self._jobs.ListJobs(request, timeout=ANSWER_S, metadata=self._metadata)
        return [_job(job) for job in response.jobs]

    async def cancel(self, job_id: str) -> Job:
        """End a job; one that has ended stays as it is."""
        request = jobs_pb2.CancelJobRequest(job_id=job_id)
        with self._explained():
            response = await self._jobs.CancelJob(request, timeout=ANSWER_S, metadata=self._metadata)
        return _job(response.job)

    async def explain_job(self, job_id: str) -> list[str]:
        """Why what waits of a job waits, a sentence each."""
        request = jobs_pb2.ExplainJobRequest(job_id=job_id)
        with self._explained():
            response = await self._jobs.ExplainJob(request, timeout=ANSWER_S, metadata=self._metadata)
        return list(response.sentences)

    async def results(
        self, job_id: str, first_item: int = 0, patience_s: float = PATIENCE_S
    ) -> AsyncGenerator[Results]:
        """Results in the order of the items as they become known, until the job has ended.

        A stream that breaks or falls silent is opened again where it stopped, for up to `patience_s`.
        """
        next_item, lost_at_s, back_off_s = first_item, None, 0.05
        while True:
            request = jobs_pb2.StreamResultsRequest(job_id=job_id, first_item=next_item)
            call = self._jobs.StreamResults(request, metadata=self._metadata)
            stream = aiter(call)
            trouble = self._gone()
            try:
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        message = await anext(stream, None)
                    if message is None:  # with the job, or because the coordinator shuts down
                        question = jobs_pb2.GetJobRequest(job_id=job_id)
                        answer = await self._jobs.GetJob(question, timeout=ANSWER_S, metadata=self._metadata)
                        job = _job(answer.job)
                        if job.state == "cancelled" or (job.state == "done" and next_item == job.items):
                            yield Results(next_item, (), {}, job)
                            return
                        break
                    lost_at_s = None
                    results = _results(message)
                    if results.payloads and results.first_item != next_item:
                        raise CarpoolError(
                            f"the coordinator at {self.target} sent item {results.first_item} of job "
                            f"{job_id} where item {next_item} was due",
                            exit_code=1,
                        )
                    if results.payloads:
                        next_item, back_off_s = next_item + len(results.payloads), 0.05
                    yield results
                    if results.job.state == "done" and next_item == results.job.items:
                        return
            except TimeoutError:
                pass
            except AioRpcError as error:
                trouble = self._explain(error)
                if error.code() not in _GONE:
                    raise trouble from None
            finally:
                call.cancel()
            lost_at_s = time.monotonic() if lost_at_s is None else lost_at_s
            if time.monotonic() - lost_at_s + back_off_s > patience_s:
                raise trouble
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, 1.0)

    async def models(self) -> list[Model]:
        """The models that some vehicle of the fleet offers."""
        request = jobs_pb2.ListModelsRequest()
        with self._explained():
            response = await self._jobs.ListModels(request, timeout=ANSWER_S, metadata=self._metadata)
        return [
            Model(model.name, model.kind, model.digest, model.max_item_bytes, model.nodes)
            for model in response.models
        ]

    async def nodes(self) -> list[Node]:
        """Every vehicle known since the coordinator started."""
        call = self._fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=ANSWER_S, metadata=self._metadata)
        with self._explained():
            return [_node(node) async for page in call for node in page.nodes]

    async def explain_node(self, name: str) -> list[str]:
        """Why a vehicle has the work that it has, or none, a sentence each."""
        request = fleet_pb2.ExplainNodeRequest(name=name)
        with self._explained():
            response = await self._fleet.ExplainNode(request, timeout=ANSWER_S, metadata=self._metadata)
        return list(response.sentences)

    async def forecast(self, name: str) -> list[tuple[float, float]]:
        """The chance that a vehicle stays for each of some seconds of its own clock; none when it is away."""
        request = fleet_pb2.ExplainNodeRequest(name=name)
        with self._explained():
            response = await self._fleet.ExplainNode(request, timeout=ANSWER_S, metadata=self._metadata)
        return [(chance.after_s, chance.stays) for chance in response.stays]

    async def cordon(self, names: Sequence[str], cordoned: bool = True) -> None:
        """Give these vehicles no new work, or give them work again."""
        request = fleet_pb2.CordonNodesRequest(names=names, cordoned=cordoned)
        with self._explained():
            await self._fleet.CordonNodes(request, timeout=ANSWER_S, metadata=self._metadata)

    async def drain(self, names: Sequence[str]) -> None:
        """Cordon these vehicles and let them depart when they have finished what they hold."""
        request = fleet_pb2.DrainNodesRequest(names=names)
        with self._explained():
            await self._fleet.DrainNodes(request, timeout=ANSWER_S, metadata=self._metadata)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a failed call into the one error that callers see."""
        try:
            yield
        except AioRpcError as error:
            raise self._explain(error) from None

    def _gone(self) -> CarpoolError:
        return CarpoolError(
            f"no coordinator answers at {self.target}; start one with `carpool up`, "
            "or name another with --grpc HOST:PORT"
        )

    def _explain(self, error: AioRpcError) -> CarpoolError:
        """What a failed call means to the user."""
        details = " ".join((error.details() or "no reason given").split())
        match error.code():
            case code if code in _GONE and not _refused(error):
                return self._gone()
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                if details == "Deadline Exceeded":  # gRPC's own words, not those of a coordinator
                    details = f"the coordinator at {self.target} did not answer in time"
                return CarpoolError(details, exit_code=1)
            case grpc.StatusCode.ABORTED:
                return CarpoolError(details, exit_code=1)
            case grpc.StatusCode.UNIMPLEMENTED:
                return CarpoolError(
                    f"what answers at {self.target} is no Carpool coordinator, or not its gRPC port; "
                    "name another with --grpc HOST:PORT"
                )
            case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN | grpc.StatusCode.DATA_LOSS:
                return CarpoolError(f"the coordinator at {self.target} failed: {details}", exit_code=1)
            case _:
                return CarpoolError(details)


def _refused(error: AioRpcError) -> bool:
    """Whether a coordinator refused a call, and not gRPC, which found none."""
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    return any(key == REFUSAL_KEY for key, _ in metadata)


def check_target(target: str) -> str:
    """The same "HOST:PORT", if it is one; an IPv6 host stands in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", target)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise CarpoolError(f"{target!r} is no address; give HOST:PORT, for example 127.0.0.1:7000")
    return target


def _chunks(
    header: jobs_pb2.JobHeader, items: Iterable[bytes], broken: list[CarpoolError]
) -> Iterator[jobs_pb2.SubmitJobRequest]:
    """The messages of one submission, each of at most CHUNK_BYTES or one item."""
    chunk: list[bytes] = []
    size = 0
    yield jobs_pb2.SubmitJobRequest(header=header)
    try:
        for item in items:
            size += len(item)
            if chunk and (size > CHUNK_BYTES or len(chunk) == CHUNK_ITEMS):
                yield _chunk(chunk)
                chunk, size = [], len(item)
            chunk.append(item)
    except CarpoolError as error:  # gRPC swallows it and cancels the call
        broken.append(error)
        raise
    if chunk:
        yield _chunk(chunk)


def _chunk(items: Sequence[bytes]) -> jobs_pb2.SubmitJobRequest:
    return jobs_pb2.SubmitJobRequest(items=jobs_pb2.Items(payload=b"".join(items), lengths=map(len, items)))


def _results(message: jobs_pb2.StreamResultsResponse) -> Results:
    return Results(
        message.first_item,
        list(message.payloads),
        {row.item: Failure(row.failure.code, row.failure.message) for row in message.failed},
        _job(message.job),
    )


def _job(job: jobs_pb2.Job) -> Job:
    return Job(
        job_id=job.job_id,
        model=job.model,
        kind=job.kind,
        job_class=_word(jobs_pb2.JobClass.Name(job.job_class)),
        state=_word(jobs_pb2.JobState.Name(job.state)),
        items=job.items,
        items_done=job.items_done,
        items_failed=job.items_failed,
        items_leased=job.items_leased,
        nodes_at_work=job.nodes_at_work,
        age_s=job.age_s,
        deadline_s=job.deadline_s,
        idempotency_key=job.idempotency_key,
        quote=Quote(job.quote.finish_s, job.quote.on_time) if job.HasField("quote") else None,
    )


def _node(node: fleet_pb2.Node) -> Node:
    return Node(
        name=node.name,
        profile=node.profile,
        lot_id=node.lot_id,
        state=_word(fleet_pb2.NodeState.Name(node.state)),
        window_s=node.window_s,
        share=node.share,
        leases=node.leases,
        items_done=node.items_done,
        departures=node.departures,
        heartbeat_age_s=node.heartbeat_age_s,
        models=tuple(node.models),
    )


def _word(name: str) -> str:
    """The last word of an enum value's name: JOB_STATE_DONE is "done"."""
    return name.rpartition("_")[2].lower()
