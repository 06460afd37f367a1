"""Requests: interactive jobs whose callers wait. They are kept in memory only.

Owns their inputs, their answers and what was said of these so far, so that another car goes on where one stopped.
It decides nothing: the core hears of each request as a job, and of a stream no more than that it goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from time import monotonic, time

from coordinator import words
from coordinator.catalogue import Catalogue
from coordinator.config import LimitSettings
from coordinator.conversations import Conversations
from coordinator.core.effects import EndRecord, FailureRecord, Grant, Outcome, ResultsRecord
from coordinator.core.events import (
    Event,
    JobId,
    JobsCancelled,
    JobSpec,
    JobsSubmitted,
    LotId,
    Progressed,
    Report,
    Token,
)
from coordinator.core.lease import ranges_of
from coordinator.core.ranges import Range
from coordinator.core.scheduler import Scheduler
from coordinator.errors import Failure
from coordinator.hedging import Hedging
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused, refused
from coordinator.statistics import Statistics
from coordinator.store import accepted_payloads
from coordinator.streams import Breach, Ending, Part, Partial, Stream, ending
from coordinator.units import duration

_FIRST = 1 << 62

_SPOKEN = "generate"
"""The kind of models whose answers are told as they are made."""

_MARGIN, _LONGEST_MARGIN_S = 0.05, 0.1
"""A stream ends by so much before its caller's deadline, lest the caller hears its own clock and not the reason."""

_ASK_EVERY_S = 1.0

_News = ResultsRecord | FailureRecord | EndRecord


@dataclass(slots=True)
class _Request:
    """An interactive job whose caller waits, with its twin if there is one."""

    spec: JobSpec
    jobs: set[JobId]  # that may answer it
    submitted_s: float
    inputs: Sequence[bytes]
    answers: list[bytes | Failure]
    answered: asyncio.Future[Outcome]
    stream: Stream | None = None
    hedged: bool = False  # a second car was asked, or will not be
    lent_s: float | None = None  # when the first car was lent it
    ended_s: float | None = None  # when all its answers were here
    busy_s: dict[Token, float] = field(default_factory=dict)
    """Accelerator-seconds that each car computed for it, by lease, as reports tell them."""

    @property
    def infer_s(self) -> float:
        """What all cars that had it computed for it: of a car that was lost, what it had told beside its tokens."""
        said = self.stream.busy_s if self.stream is not None else {}
        leases = said.keys() | self.busy_s.keys()
        return sum(max(said.get(lease, 0.0), self.busy_s.get(lease, 0.0)) for lease in leases)

    def end(self, outcome: Outcome) -> None:
        """Nothing more will come."""
        if not self.answered.done():
            self.answered.set_result(outcome)
        if self.stream is not None:
            self.stream.news.set()


class Requests:
    """All that are open."""

    def __init__(
        self,
        scheduler: Scheduler,
        catalogue: Catalogue,
        metrics: Metrics,
        limits: LimitSettings,
        post: Callable[[Event], None],
    ) -> None:
        """`post` tells the core."""
        self._scheduler = scheduler
        self._catalogue = catalogue
        self._metrics = metrics
        self._limits = limits
        self._post = post
        # They are not recorded: their numbers differ from those of other boots and of jobs, lest a lot that comes
        # back with work for an old one is taken to hold a new one.
        self._numbers = count(_FIRST + (scheduler.epoch << 40))
        self._open: dict[JobId, _Request] = {}
        self._conversations = Conversations()
        self._hedging = Hedging()
        self.statistics = Statistics()
        self._lacks: dict[str, tuple[float, str]] = {}  # by model: what requests lacked, and when that was asked

    def __len__(self) -> int:
        return len(self._open)

    async def run(
        self,
        tenant: str,
        api: str,
        model: str,
        inputs: Sequence[bytes],
        timeout_s: float | None,
        value: float | None = None,
    ) -> list[bytes | Failure]:
        """Run a small interactive job; the answers are in the order of the inputs.

        Of a tenant's requests without a deadline those of the highest `value` an item go first; None: 1 an item.
        Cancelling the call cancels the job.
        """
        if not inputs:
            self._catalogue.refuse_empty()
        self._catalogue.check_sizes(self._catalogue.offered(model), [*map(len, inputs)], 0)
        with self._submitted(tenant, api, model, inputs, timeout_s, value) as request:
            outcome = await request.answered
        self._check(outcome, request)
        return request.answers

    async def generate(
        self,
        tenant: str,
        api: str,
        model: str,
        payload: bytes,
        timeout_s: float | None,
        value: float | None = None,
    ) -> AsyncGenerator[Part | Ending]:
        """What is said of one answer, as it comes, and at last how it ended; `value` as for `run`.

        Whoever reads slowly gets more at a time. Closing the generator cancels the job.
        """
        offered = self._catalogue.offered(model)
        if offered.kind != _SPOKEN:
            self._metrics.count_rejection("wrong_kind")
            raise Refused(
                Refusal.BAD_INPUT,
                f"model {model!r} is of kind {offered.kind!r}, and only those of kind {_SPOKEN!r} tell an answer as"
                " it is made; call Run",
            )
        self._catalogue.check_sizes(offered, [len(payload)], 0)
        stream = Stream()
        if timeout_s is not None:
            timeout_s -= min(_MARGIN * timeout_s, _LONGEST_MARGIN_S)
        prefer = self._conversations.car(tenant, model, payload)
        with self._submitted(tenant, api, model, [payload], timeout_s, value, stream, prefer) as request:
            while not request.answered.done():
                await self._news(request, stream)
                for part in stream.take():
                    yield part
            self._check(request.answered.result(), request)
            end = self._end_stream(request, stream)
            self._conversations.answered(tenant, model, payload, stream.text, stream.vehicle)
            for part in stream.take():
                yield part
            yield end

    def hear(self, lot: LotId, partials: Sequence[Partial]) -> None:
        """A lot says more of answers. Under a token that is not live it changes nothing."""
        now_s = monotonic()
        for said in partials:
            lease = self._scheduler.leases.get(said.token)
            request = self._open.get(lease.job) if lease is not None and lease.lot == lot else None
            if lease is None or request is None or request.stream is None or said.item >= lease.items:
                self._metrics.count_breach(Breach.STALE.value)
                continue
            stream = request.stream
            fresh = stream.lease != said.token
            before, began = len(stream.tokens), stream.first_s is None
            breach, gap_s = stream.hear(said, lease.node, now_s)
            if breach is not None:
                self._metrics.count_breach(breach.value)
                continue
            self._choose(request, lease.job)
            self._metrics.count_tokens(request.spec.model, len(stream.tokens) - before)
            if began:
                self._metrics.observe_first_token(request.spec.model, now_s - request.submitted_s)
                if stream.lent_s is not None:
                    self._hedging.began(request.spec.model, now_s - stream.lent_s)
            if fresh:
                self._metrics.count_reused(request.spec.model, said.reused)
            if gap_s is not None:
                self._metrics.observe_handover(gap_s)
            if fresh or now_s - stream.told_s >= self._scheduler.settings.heartbeat_s:
                stream.told_s = now_s
                self._post(Progressed(lot, 0, (Report(said.token, 0, spoke=True),)))

    @staticmethod
    def owns(job: JobId) -> bool:
        """Whether this is the number of a request, open or not, of this boot or another."""
        return job >= _FIRST

    def inputs(self, job: JobId, ranges: Sequence[Range]) -> list[bytes] | None:
        """Its inputs of these items, in order; None: it is not open."""
        request = self._open.get(job)
        if request is None:
            return None
        return [payload for first, items in ranges for payload in request.inputs[first : first + items]]

    def lent(self, grant: Grant) -> Sequence[int] | None:
        """A car is lent a request: what was said of its answer so far; None: it is not told as it is made."""
        request = self._open.get(grant.job)
        if request is None:
            return None
        now_s = monotonic()
        if request.lent_s is None:
            request.lent_s = now_s
        if request.stream is None:
            return None
        request.stream.lend(grant.node, now_s)
        return tuple(request.stream.tokens)

    def take(
        self, record: ResultsRecord | FailureRecord | EndRecord, payloads: Mapping[int, Sequence[bytes]]
    ) -> bool:
        """Hand on what the core says of a request, with the payloads of reports by serial; False: it is a job's."""
        if not self.owns(record.job):
            return False
        request = self._open.get(record.job)
        if request is None:  # its caller has gone
            return True
        match record:
            case ResultsRecord():
                self._choose(request, record.job)
                accepted = iter(accepted_payloads(record, payloads[record.serial]))
                for first, items in ranges_of(record.ranges, record.accepted):
                    for item in range(first, first + items):
                        request.answers[item] = next(accepted)
            case FailureRecord(_, item, code, message):
                request.answers[item] = Failure(code, message)
            case EndRecord(job, outcome, busy_s):
                request.jobs.discard(job)
                for lease, seconds in busy_s:
                    request.busy_s[lease] = request.busy_s.get(lease, 0.0) + seconds
                failed = all(isinstance(answer, Failure) for answer in request.answers)
                if request.jobs:
                    self._hedging.asked -= 1
                    del self._open[job]
                    if failed:  # the other one may yet answer
                        return True
                if outcome is Outcome.DONE and not failed:
                    request.ended_s = monotonic()
                label = "failed" if outcome is Outcome.DONE and failed else outcome.value
                self._metrics.observe_job(request.spec.model, label, monotonic() - request.submitted_s)
                request.end(outcome)
        return True

    def close(self) -> None:
        """The coordinator shuts down: nobody is to wait for an answer that will not come."""
        for request in self._open.values():
            request.end(Outcome.CANCELLED)

    @contextmanager
    def _submitted(
        self,
        tenant: str,
        api: str,
        model: str,
        inputs: Sequence[bytes],
        timeout_s: float | None,
        value: float | None,
        stream: Stream | None = None,
        prefer: int | None = None,
    ) -> Iterator[_Request]:
        """A request, cancelled at the end if it was not answered."""
        if len(self._open) >= self._limits.open_requests:
            self._metrics.count_rejection("overloaded")
            raise Refused(
                Refusal.OVERLOADED,
                f"{len(self._open)} requests are open, the limit; try again later",
                retry_after_s=1.0,
            )
        now_s = monotonic()
        job = JobId(next(self._numbers))
        spec = JobSpec(
            job=job,
            tenant=tenant,
            api=api,
            model=model,
            items=len(inputs),
            item_bytes=sum(map(len, inputs)) // len(inputs),
            interactive=True,
            deadline_s=inf if timeout_s is None else now_s + timeout_s,
            value=float(len(inputs)) if value is None else value,
            prefer=prefer,
        )
        answered = asyncio.get_running_loop().create_future()
        request = _Request(spec, {job}, now_s, inputs, [b""] * len(inputs), answered, stream)
        self._open[job] = request
        self._post(JobsSubmitted((spec,)))
        try:
            yield request
        except Refused:  # late, or its answer is of no use
            request.ended_s = None
            raise
        finally:
            if request.jobs:
                self._post(JobsCancelled(tuple(request.jobs)))
            for job in request.jobs | {spec.job}:
                self._open.pop(job, None)
            if len(request.jobs) > 1:
                self._hedging.asked -= 1
            self._note(request)

    def _note(self, request: _Request) -> None:
        """Count a request that has ended."""
        statistics, ended_s = self.statistics.of(request.spec.model), request.ended_s
        statistics.last_s = time()
        whole = not any(isinstance(answer, Failure) for answer in request.answers)
        if ended_s is None or request.lent_s is None or not whole:
            statistics.fail.add(monotonic() - request.submitted_s)
            return
        statistics.success.add(ended_s - request.submitted_s)
        statistics.queue.add(request.lent_s - request.submitted_s)
        batch, infer_s = statistics.batch(len(request.answers)), request.infer_s
        batch.infer.add(infer_s)
        batch.input.add(max(0.0, ended_s - request.lent_s - infer_s))

    async def _news(self, request: _Request, stream: Stream) -> None:
        """Wait until there is more; if that takes much longer than usual, another car is asked the same."""
        model = request.spec.model
        patience_s = None
        if not request.hedged and not stream.tokens and stream.lent_s is not None:
            patience_s = self._hedging.patience_s(model)
        if patience_s is None or stream.lent_s is None:
            await stream.news.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, stream.lent_s + patience_s - monotonic())):
                await stream.news.wait()
        except TimeoutError:
            request.hedged = True
            if self._hedging.may_ask(len(self._open)) and self._scheduler.fleet.has_choice(model):
                self._hedge(request)

    def _hedge(self, request: _Request) -> None:
        """Ask a car of another lot the same: the first to speak answers, the other is let go."""
        spec = request.spec
        twin = replace(spec, job=JobId(next(self._numbers)), api="hedge", prefer=None, twin=spec.job)
        self._hedging.asked += 1
        request.jobs.add(twin.job)
        self._open[twin.job] = request
        self._post(JobsSubmitted((twin,)))

    def _choose(self, request: _Request, job: JobId) -> None:
        """This job answers a request; its twin is let go."""
        others = tuple(request.jobs - {job})
        if others:
            self._hedging.asked -= 1
            self._metrics.count_hedge("first" if job == request.spec.job else "second")
            request.jobs = {job}
            for other in others:
                del self._open[other]
            self._post(JobsCancelled(others))

    def _check(self, outcome: Outcome, request: _Request) -> None:
        if outcome is Outcome.EXPIRED:
            raise Refused(Refusal.TOO_LATE, self._why_late(request))
        if outcome is Outcome.CANCELLED:
            raise Refused(Refusal.UNAVAILABLE, "the coordinator is shutting down; ask again when it is back")

    def _end_stream(self, request: _Request, stream: Stream) -> Ending:
        """How an answer ended; what its result has beyond what was said is said now."""
        (answer,) = request.answers
        if isinstance(answer, Failure):
            raise refused(answer, "the answer", alone=True)
        try:
            text, end = ending(answer)
        except ValueError as error:
            raise Refused(Refusal.FAILED, str(error)) from None
        if not text.startswith(stream.text):
            self._metrics.count_breach(Breach.GAP.value)
            raise Refused(Refusal.FAILED, "the answer that came is not the one that was begun; ask again")
        stream.finish(text)
        self._metrics.count_recomputed(stream.handovers * end.prompt_tokens + stream.recomputed)
        if stream.first_s is not None and len(stream.tokens) > 1:
            each_s = (stream.last_s - stream.first_s) / (len(stream.tokens) - 1)
            self._metrics.observe_each_token(request.spec.model, each_s)
        return end

    def _why_late(self, request: _Request) -> str:
        """In a sentence: how far it came, or what it lacked. What was lacked is asked once a second."""
        stream, model = request.stream, request.spec.model
        if stream is not None and stream.tokens:
            return f"the deadline passed after {len(stream.tokens)} tokens of the answer: allow more time"
        now_s = monotonic()
        asked_s, why = self._lacks.get(model, (-inf, ""))
        if now_s >= asked_s + _ASK_EVERY_S:
            explained = self._scheduler.explain_request(request.spec, now_s)
            why = words.of_request(model, explained, self._scheduler.settings)
            self._lacks[model] = now_s, why
        waited = duration(now_s - request.submitted_s)
        return f"the deadline passed, and nothing had come of it within {waited}: {why}"
