"""The runtime: the loop that drives the core live. It decides nothing.

Owns the clock, the links, whoever waits for an answer, and the payloads that the core never sees. Facts are
handed to the core together once a turn of the event loop, so that nothing waits when it is idle and much goes
together when it is busy.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from math import inf
from time import monotonic, perf_counter, time
from typing import TypeVar, assert_never
from weakref import WeakValueDictionary

from coordinator import words
from coordinator.catalogue import Catalogue
from coordinator.config import LimitSettings, StoreSettings
from coordinator.core import invariants, views
from coordinator.core.effects import (
    Acknowledge,
    Disconnect,
    EndRecord,
    FailureRecord,
    Grant,
    JobRecord,
    Order,
    Outcome,
    Record,
    ResultsRecord,
)
from coordinator.core.events import (
    Event,
    JobId,
    JobsCancelled,
    JobsClosed,
    JobSpec,
    JobsSaved,
    JobsSubmitted,
    LeaseEnd,
    LotId,
    LotLeft,
    LotLost,
    NodesCordoned,
    NodesDrained,
    Progressed,
    Report,
    Token,
)
from coordinator.core.job import Job
from coordinator.core.plan import Quote
from coordinator.core.ranges import Range
from coordinator.core.scheduler import Scheduler
from coordinator.items import Items
from coordinator.link import Link, Queued
from coordinator.metrics import Metrics
from coordinator.perform import perform
from coordinator.refusal import Refusal, Refused
from coordinator.requests import Requests
from coordinator.roster import Roster
from coordinator.staging import Staging
from coordinator.store import (
    Corrupt,
    Full,
    Intake,
    NoSuchJob,
    Operation,
    Results,
    Store,
    StoredJob,
    Submission,
)
from coordinator.store.documents import Document
from coordinator.wire import OfferedModel, job_name

_LOG = logging.getLogger(__name__)

_LAG_CHECK_S = 0.5
_CHECK_S = 10.0
_CHECKED_NODES = 200  # a check costs about 10 us a node and 20 us a job
_CHECKED_JOBS = 100
_FEW_REQUESTS, _TURN_S = 8, 0.002  # with more open, facts wait so long for company
_FORGET_S = 10.0
_CLOCK_SET_S = 60.0  # by so much against the monotonic clock
_NEWS_S = 1.0  # a watched job is shown at least so often

_T = TypeVar("_T")


@dataclass(slots=True)
class _Waiting:
    """A submission on its way to the store."""

    submission: Submission
    saved: asyncio.Future[None]


class Runtime:
    """The live coordinator behind every front."""

    def __init__(
        self, scheduler: Scheduler, store: Store, metrics: Metrics, limits: LimitSettings, newest_job: JobId
    ) -> None:
        """`newest_job` is the last that was recorded before."""
        self.metrics = metrics
        self.roster = Roster()
        self.catalogue = Catalogue(metrics)
        self._scheduler = scheduler
        self._store = store
        self._limits = limits
        self._events: list[Event] = []
        self._turn_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.epoch = scheduler.epoch
        self._job_numbers = count(newest_job + 1)
        self.requests = Requests(scheduler, self.catalogue, metrics, limits, self.post)
        self._serial = 1
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submissions: dict[JobId, _Waiting] = {}
        self._claims: dict[tuple[str, str], asyncio.Future[None]] = {}  # keys of submissions on their way
        self._news: WeakValueDictionary[JobId, asyncio.Future[None]] = WeakValueDictionary()
        """Done at the next news of a job; kept by those who watch it."""
        self._kept: Counter[JobId] = Counter()  # whose results somebody wants
        self._quotes: dict[JobId, Quote] = {}  # of jobs that were submitted to this process and have not ended
        self._ended: set[JobId] = set()  # recorded as ended; the core is told next
        self.documents = store.documents
        """What fronts keep beside jobs."""
        self.held: dict[str, set[str]] = {}
        """Names of documents that are not forgotten now, each with the names of who reads it."""
        self._links: dict[LotId, Link] = {}
        self._payloads: dict[int, Sequence[bytes]] = {}  # by serial, until the turn is over
        self.staging = Staging(scheduler.leases)
        self._loop = asyncio.get_running_loop()

    # Tenants

    def intake(self, model: str) -> Intake:
        """Begin to take in a batch job for a model."""
        self.catalogue.offered(model)
        try:
            return self._store.intake(JobId(next(self._job_numbers)), model)
        except Full as full:
            raise self.no_room(full) from None

    async def take_in(self, intake: Intake, items: Items) -> None:
        """Take the next items of a batch job; refused when one of them cannot be run."""
        self.catalogue.check_sizes(self.catalogue.offered(intake.model), items.lengths, intake.items)
        try:
            await intake.add(items)
        except Full as full:
            raise self.no_room(full) from None

    async def submit(
        self,
        tenant: str,
        api: str,
        intake: Intake,
        *,
        key: str,
        deadline_s: float,
        value: float,
        item_work: float = 1.0,
        least_on_time: float = 0.0,
    ) -> tuple[JobId, bool]:
        """Record a batch job; answers when it is durable, with its id and whether its key named it before.

        `deadline_s` is from now, 0 for none; `value` 0 stands for one an item. Refused when its chance to be done
        by its deadline is below `least_on_time`.
        """
        items = intake.items
        if not items:
            self.catalogue.refuse_empty()
        if key:
            known = await self._claim(tenant, key, intake)
            if known is not None:
                return known, True
        now_s = monotonic()
        spec = JobSpec(
            job=intake.job,
            tenant=tenant,
            api=api,
            model=intake.model,
            items=items,
            item_bytes=intake.bytes // items,
            interactive=False,
            deadline_s=now_s + deadline_s if deadline_s > 0 else inf,
            value=value or float(items),
            key=key,
            item_work=item_work,
            least_on_time=least_on_time,
        )
        try:
            quote = self._scheduler.quote(spec, now_s)
        except BaseException:
            if key:
                self._unclaim(tenant, key)
            raise
        if quote.on_time < least_on_time:
            if key:
                self._unclaim(tenant, key)
            self.metrics.count_rejection("too_unsure")
            raise Refused(Refusal.TOO_UNSURE, words.of_refusal(spec, quote, now_s))
        self._quotes[spec.job] = quote
        waiting = _Waiting(Submission(spec, intake), self._loop.create_future())
        self._submissions[spec.job] = waiting
        self._events.append(JobsSubmitted((spec,)))
        self._turn()  # at once: the next quote counts it
        await asyncio.shield(waiting.saved)
        return spec.job, False

    async def known(self, tenant: str, key: str) -> JobId | None:
        """The recorded job of a tenant under this key."""
        stored = await self.reading(self._store.find(tenant, key))
        return None if stored is None else stored.spec.job

    async def job(self, tenant: str, job: JobId) -> views.JobView:
        """A batch job of this tenant; refused when there is none."""
        view = None if job in self._ended else views.job_view(self._scheduler.state, job, monotonic())
        if view is None:
            stored = await self.reading(self._store.job(job))
            view = _view(stored) if stored is not None else None
        if view is None or view.spec.tenant != tenant or view.spec.interactive:
            raise _no_job(job)
        return view

    def quote(self, job: JobId) -> Quote | None:
        """What a job could expect when it was submitted to this process; None when it was not, or has ended."""
        return self._quotes.get(job)

    async def jobs(self, tenant: str, limit: int) -> list[views.JobView]:
        """The newest batch jobs of this tenant, the newest first."""
        stored = await self.reading(self._store.jobs(tenant, limit))
        now_s, state = monotonic(), self._scheduler.state
        live = (views.job_view(state, row.spec.job, now_s) if row.outcome is None else None for row in stored)
        return [view or _view(row) for view, row in zip(live, stored, strict=True)]

    async def explain_job(self, tenant: str, job: JobId) -> list[str]:
        """Why what waits of a batch job of this tenant waits, a sentence each."""
        view = await self.job(tenant, job)
        now_s = monotonic()
        why = self._scheduler.explain_job(job, now_s) if view.ended is None else None
        if why is None:
            return [f"{job_name(job)} has ended: {view.done:,} items are done, {view.failed:,} failed."]
        return words.of_job(job_name(job), why, self._scheduler.settings, now_s)

    async def cancel(self, tenant: str, job: JobId) -> views.JobView:
        """End a batch job, unless it has ended; answers when that is recorded."""
        if (await self.job(tenant, job)).ended is None:
            self.post(JobsCancelled((job,)))
            async for view in self.watch(tenant, job):
                if view.ended is not None:
                    break
        return await self.job(tenant, job)

    async def watch(self, tenant: str, job: JobId) -> AsyncGenerator[views.JobView]:
        """A batch job now, at its next news, and at least once a second."""
        while True:
            news = self._news.get(job)
            if news is None:
                news = self._news[job] = self._loop.create_future()
            yield await self.job(tenant, job)
            await asyncio.wait((news,), timeout=_NEWS_S)

    async def results(
        self, tenant: str, job: JobId, first: int, limit_bytes: int
    ) -> AsyncGenerator[tuple[int, Results, views.JobView]]:
        """Recorded results in the order of the items from `first` on, until the job has ended.

        Yields (index of the first item, results, progress); at least once a second, perhaps without results.
        """
        items = (await self.job(tenant, job)).spec.items
        if first > items:
            raise Refused(Refusal.BAD_INPUT, f"the job has {items} items; item {first} was asked for")
        with self.keeping(job):
            async for view in self.watch(tenant, job):
                while True:
                    try:
                        part = await self.reading(self._store.results(job, first, limit_bytes))
                    except NoSuchJob:  # not any more
                        raise _no_job(job) from None
                    yield first, part, view
                    first += len(part.payloads)
                    if not part.payloads or first == items:
                        break
                if view.ended is not None:
                    return

    async def recorded(self, job: JobId, first: int, limit_bytes: int) -> Results:
        """What is recorded of a job from item `first` on, up to a gap; items of damaged records have failed."""
        damage: list[str] = []
        found = await self.reading(self._store.results(job, first, limit_bytes, damage))
        for message in damage:
            self.damaged(message)
        return found

    @contextmanager
    def keeping(self, job: JobId) -> Iterator[None]:
        """Inside, a job is not forgotten, however long ago it ended."""
        self._kept[job] += 1
        try:
            yield
        finally:
            self._kept[job] -= 1
            if not self._kept[job]:
                del self._kept[job]

    async def next_settled(self, job: JobId, first: int) -> int | None:
        """The first recorded item behind a gap in the results of an ended job; None: there are no more."""
        return await self.reading(self._store.next_settled(job, first))

    def capable(self, model: str) -> int:
        """Vehicles here that run a model."""
        return self._scheduler.fleet.capable(model)

    # Operators

    def nodes(self) -> list[tuple[str, str, views.NodeView]]:
        """Every vehicle known: its name, its lot's name, and how it is."""
        roster = self.roster
        return [
            (roster.names[view.row], roster.lot_names[view.lot], view)
            for view in views.node_views(self._scheduler.state, monotonic())
        ]

    def explain_node(self, name: str) -> list[str]:
        """Why a vehicle has the work that it has, or none, a sentence each."""
        (row,) = self.roster.find([name])
        why = self._scheduler.explain_node(int(row), monotonic())
        return [f"{name} joins just now."] if why is None else words.of_node(name, why, self._scheduler.settings)

    def chances(self, name: str) -> tuple[tuple[float, float], ...]:
        """The chance that a vehicle is still here after each of some hours of its own clock."""
        (row,) = self.roster.find([name])
        return self._scheduler.chances(int(row), monotonic())

    def cordon(self, names: Sequence[str], cordoned: bool) -> None:
        """Give these vehicles no new work, or give them work again."""
        self.post(NodesCordoned(self.roster.find(names), cordoned))

    def drain(self, names: Sequence[str]) -> None:
        """Let these vehicles finish what they hold and then leave."""
        self.post(NodesDrained(self.roster.find(names)))

    # Lots

    def join(self, link: Link) -> None:
        """A lot opened its stream; an older stream of it is broken."""
        older = self._links.get(link.lot)
        if older is not None:
            older.close()
        self._links[link.lot] = link
        self.post(link.joined)

    def leave(self, link: Link, goodbye: bool) -> None:
        """A lot's stream ended."""
        if self._links.get(link.lot) is link:
            del self._links[link.lot]
            self.post(LotLeft(link.lot) if goodbye else LotLost(link.lot))

    def offer(self, model: OfferedModel) -> None:
        """A lot offers this model."""
        self.catalogue.add(model)

    def keep(self, results: Sequence[Sequence[bytes]]) -> int:
        """Keep the payloads of some reports until their facts are handled; gives the serial of the first."""
        first = self._serial
        for payloads in results:
            self._payloads[self._serial] = payloads
            self._serial += 1
        return first

    async def inputs(self, token: Token, items: Sequence[int]) -> list[bytes]:
        """Inputs of a live lease by their offsets in it; refused when it is not live."""
        lease = self._scheduler.leases.get(token)
        if lease is None:
            raise Refused(Refusal.NOT_FOUND, f"lease {token.epoch}.{token.attempt} is not live; drop it")
        for item in items:
            if item >= lease.items:
                raise Refused(Refusal.BAD_INPUT, f"the lease has {lease.items} items; item {item} was asked for")
        ranges = [(lease.item(item), 1) for item in items]
        return list(await self._read_inputs(lease.job, ranges))

    async def inputs_of(self, orders: Sequence[Queued]) -> list[Sequence[bytes] | None]:
        """Inputs that each of these takes along; None: they are damaged or gone, the grant is void."""
        reads = [self._granted(order) for order, given, *_ in orders if isinstance(order, Grant) and given is None]
        read = iter(await asyncio.gather(*reads))
        return [next(read) if given is None else given for _, given, *_ in orders]

    async def _granted(self, grant: Grant) -> Sequence[bytes] | None:
        try:
            return await self._read_inputs(grant.job, grant.ranges)
        except Refused:  # its caller has gone, as the core hears
            return None
        except Corrupt as corrupt:
            self.damaged(str(corrupt))
            await self._void(grant)
            return None

    async def _void(self, grant: Grant) -> None:
        """End a lease that no lot heard of: items whose inputs are damaged fail, the others wait for another."""
        errors = []
        items = (item for first, count in grant.ranges for item in range(first, first + count))
        for offset, item in enumerate(items):
            try:
                await self._store.inputs(grant.job, [(item, 1)])
            except Corrupt as corrupt:
                errors.append((offset, "bad_input", str(corrupt)))
        self.post(Progressed(grant.lot, 0, (Report(grant.token, 0, errors=tuple(errors), ended=LeaseEnd.REFUSED),)))

    async def _read_inputs(self, job: JobId, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Inputs of a job or of a request; refused when the caller of a request has gone."""
        inputs = self.requests.inputs(job)
        if inputs is not None:
            return _slices(inputs, ranges)
        if self.requests.owns(job):
            raise Refused(Refusal.NOT_FOUND, "the caller of this request has gone; drop it")
        return await self._store.inputs(job, ranges)

    # The loop

    def post(self, *events: Event) -> None:
        """Hand facts to the core: at once when little is going on, else together with those that come after."""
        self._events.extend(events)
        if self._turn_is_due:
            return
        self._turn_is_due = True
        if len(self.requests) <= 1:
            self._turn()
        elif len(self.requests) <= _FEW_REQUESTS:
            self._loop.call_soon(self._turn)
        else:
            self._loop.call_later(_TURN_S, self._turn)

    async def check_invariants(self) -> None:
        """Check the core for ever, while it is small enough for that to cost little."""
        while True:
            await asyncio.sleep(_CHECK_S)
            state = self._scheduler.state
            if state.fleet.size <= _CHECKED_NODES and len(state.jobs) <= _CHECKED_JOBS:
                for name, breach in invariants.violations(state):
                    self.metrics.count_violation(name)
                    _LOG.critical("invariant %s does not hold: %s", name, breach)

    async def scrub(self) -> None:
        """Look for damage in what is stored, for ever."""
        await self._store.scrub(self.damaged)

    async def forget(self, keep: StoreSettings) -> None:
        """Forget finished jobs that are kept no longer, for ever; for a while not after a start, nor when the wall
        clock was set: it is told by the ages of jobs, and may be set again."""
        spare_s, ahead_s = keep.spare_finished_s, time() - monotonic()
        older_s = max(keep.keep_finished_s, spare_s)
        await asyncio.sleep(spare_s)
        while True:
            if abs(time() - monotonic() - ahead_s) > _CLOCK_SET_S:
                ahead_s = time() - monotonic()
                _LOG.warning("the clock was set: no finished job is forgotten for %g s", spare_s)
                await asyncio.sleep(spare_s)
                continue
            try:
                forgotten = await self._store.forget(older_s, keep.keep_bytes, spare_s, frozenset(self._kept))
                forgotten += await self._forget_documents()
            except Exception as error:
                self._stop(error)
                return
            if not forgotten:
                await asyncio.sleep(_FORGET_S)

    async def record(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record documents, and forget those that are named. When the store fails at that the coordinator stops."""
        try:
            await self.documents.put(documents, dropped=dropped)
        except Exception as error:
            self._stop(error)
            raise

    async def _forget_documents(self) -> int:
        with suppress(Refused):  # one that is damaged was told
            over = await self.reading(self.documents.over(time(), self.held))
            if over:
                await self.documents.put([], dropped=[document.name for document in over])
            return len(over)
        return 0

    async def measure_lag(self) -> None:
        """Measure for ever how late the loop runs its timers."""
        while True:
            due_s = self._loop.time() + _LAG_CHECK_S
            await asyncio.sleep(_LAG_CHECK_S)
            self.metrics.observe_loop_lag(max(0.0, self._loop.time() - due_s))

    def _turn(self) -> None:
        events, self._events = self._events, []
        try:
            started_s = perf_counter()
            effects = self._scheduler.handle(events, monotonic())
            self.metrics.observe_handle(perf_counter() - started_s)
            self._ended.clear()  # the core was just told
            perform(effects, self._store, self)
        except Exception as error:
            self._stop(error)
            return
        self._payloads.clear()
        self._set_timer()
        self._turn_is_due = bool(self._events)  # what the answers gave rise to
        if self._turn_is_due:
            self._loop.call_soon(self._turn)

    def _set_timer(self) -> None:
        wakeup_s = self._scheduler.next_wakeup_s()
        if wakeup_s is None:
            return
        if self._timer is not None:
            if self._timer.when() <= wakeup_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(wakeup_s, self._wake)  # the loop's clock is monotonic(), too

    def _wake(self) -> None:
        self._timer = None
        self.post()

    def _stop(self, error: Exception) -> None:
        """What the core holds may not be what was recorded: stop rather than go on."""
        if not self.failed.done():
            self.failed.set_exception(error)

    # What `perform` asks for

    def operation(self, record: Record) -> Operation:
        """A record with the bytes that belong to it."""
        match record:
            case JobRecord(spec):
                return Operation(record, submission=self._submissions[spec.job].submission)
            case ResultsRecord():
                return Operation(record, payloads=self._payloads[record.serial])
            case _:
                return Operation(record)

    def send(self, order: Order | Acknowledge) -> None:
        """Hand an order to a lot; one whose link broke a moment ago misses it, as the core will hear."""
        link = self._links.get(order.lot)
        if isinstance(order, Grant):
            job = self._scheduler.jobs.get(order.job)
            if job is not None and job.started_s is not None and len(job.leases) == 1 and not job.settled:
                self.metrics.observe_job_queue(job.spec.label, job.started_s - job.submitted_s)
            if link is not None:
                inputs, said = self.requests.inputs(order.job), self.requests.lent(order)
                items = sum(count for _, count in order.ranges)
                size = items * job.spec.item_bytes if job is not None else 0
                link.put(order, None if inputs is None else _slices(inputs, order.ranges), size, said)
        elif link is not None:
            if isinstance(order, Disconnect):
                link.close()
            else:
                link.put(order)

    def answer(self, record: Record) -> None:
        """Tell whoever waits."""
        if not isinstance(record, JobRecord) and self.requests.take(record, self._payloads):
            return
        match record:
            case ResultsRecord(job) | FailureRecord(job):
                pass
            case EndRecord(job, outcome):
                self._observe_end(self._scheduler.jobs[job], outcome)
                self._quotes.pop(job, None)
                self._ended.add(job)
                self.post(JobsClosed((job,)))
            case JobRecord(spec):
                waiting = self._submissions.pop(spec.job)
                if spec.key:
                    self._unclaim(spec.tenant, spec.key)
                waiting.saved.set_result(None)
                self.post(JobsSaved((spec.job,)))
                return
            case _:
                assert_never(record)
        news = self._news.pop(job, None)
        if news is not None:
            news.set_result(None)

    def fail(self, records: Sequence[Record], error: Exception) -> None:
        """The store failed: nobody was told anything, and nothing more is told to anybody."""
        _LOG.critical("the store failed on %d records: %s", len(records), error)
        self._stop(error)

    async def _claim(self, tenant: str, key: str, intake: Intake) -> JobId | None:
        """The job that this key names already, refused when its content was another; None: the key is free, and
        kept for this job until it is recorded."""
        while (claim := self._claims.get((tenant, key))) is not None:
            await asyncio.wait((claim,))
        self._claims[tenant, key] = self._loop.create_future()
        try:
            known = await self.reading(self._store.find(tenant, key))
        except BaseException:
            self._unclaim(tenant, key)
            raise
        if known is None:
            return None
        self._unclaim(tenant, key)
        if known.digest != intake.digest:
            raise Refused(
                Refusal.ALREADY_EXISTS,
                f"the key {key!r} belongs to {job_name(known.spec.job)} with other content; use another key",
            )
        return known.spec.job

    def _unclaim(self, tenant: str, key: str) -> None:
        self._claims.pop((tenant, key)).set_result(None)

    async def reading(self, read: Awaitable[_T]) -> _T:
        """What the store answers; refused when what it holds is damaged."""
        try:
            return await read
        except Corrupt as corrupt:
            self.damaged(str(corrupt))
            raise Refused(Refusal.DAMAGED, str(corrupt)) from None

    def damaged(self, message: str) -> None:
        """What is stored is not what was written."""
        self.metrics.count_store_error("corrupt")
        _LOG.critical("%s", message)

    def no_room(self, full: Full) -> Refused:
        """What a caller is told then."""
        self.metrics.count_rejection("disk_full")
        self.metrics.count_store_error("full")
        return Refused(Refusal.OVERLOADED, str(full))

    def _observe_end(self, job: Job, outcome: Outcome) -> None:
        label = "failed" if outcome is Outcome.DONE and job.failed == job.spec.items else outcome.value
        self.metrics.observe_job(job.spec.model, label, monotonic() - job.submitted_s)


def _no_job(job: JobId) -> Refused:
    return Refused(Refusal.NOT_FOUND, f"no job is called {job_name(job)}; `carpool jobs` lists them")


def _slices(inputs: Sequence[bytes], ranges: Sequence[Range]) -> list[bytes]:
    return [payload for first, count in ranges for payload in inputs[first : first + count]]


def _view(stored: StoredJob) -> views.JobView:
    deadline_in_s = stored.spec.deadline_s - monotonic()
    return views.JobView(stored.spec, stored.done, stored.failed, 0, 0, stored.age_s, deadline_in_s, stored.outcome)
