"""Batch jobs that are recorded: what is told of them, and to whom. Knows neither lots nor how jobs came in.

The core answers for those that run, the store for those that have ended.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from weakref import WeakValueDictionary

from coordinator import words
from coordinator.core import views
from coordinator.core.effects import EndRecord, FailureRecord, Outcome, ResultsRecord
from coordinator.core.events import Event, JobId, JobsCancelled, JobsClosed
from coordinator.core.plan import Quote
from coordinator.core.scheduler import Scheduler
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.store import NoSuchJob, Results, Store, StoredJob
from coordinator.trouble import Trouble
from coordinator.wire import job_name

_NEWS_S = 1.0  # a watched job is shown at least so often


class Jobs:
    """All of all tenants; nobody sees another's."""

    def __init__(
        self,
        scheduler: Scheduler,
        store: Store,
        metrics: Metrics,
        trouble: Trouble,
        post: Callable[[Event], None],
    ) -> None:
        """`post` tells the core."""
        self._scheduler = scheduler
        self._store = store
        self._metrics = metrics
        self._trouble = trouble
        self._post = post
        self._news: WeakValueDictionary[JobId, asyncio.Future[None]] = WeakValueDictionary()
        """Done at the next news of a job; kept by those who watch it."""
        self.quotes: dict[JobId, Quote] = {}
        """Of jobs that were submitted to this process and have not ended: what they could expect then."""
        self.ended: set[JobId] = set()
        """Recorded as ended; the core is told next."""
        self.kept: Counter[JobId] = Counter()
        """Whose results somebody wants."""

    async def get(self, tenant: str, job: JobId) -> views.JobView:
        """A job of this tenant; refused when there is none."""
        view = None if job in self.ended else views.job_view(self._scheduler.state, job, monotonic())
        if view is None:
            stored = await self._trouble.reading(self._store.job(job))
            view = _view(stored) if stored is not None else None
        if view is None or view.spec.tenant != tenant or view.spec.interactive:
            raise _no_job(job)
        return view

    async def newest(self, tenant: str, limit: int) -> list[views.JobView]:
        """The newest jobs of this tenant, the newest first."""
        stored = await self._trouble.reading(self._store.jobs(tenant, limit))
        now_s, state = monotonic(), self._scheduler.state
        live = (views.job_view(state, row.spec.job, now_s) if row.outcome is None else None for row in stored)
        return [view or _view(row) for view, row in zip(live, stored, strict=True)]

    async def explain(self, tenant: str, job: JobId) -> list[str]:
        """Why what waits of a job of this tenant waits, a sentence each."""
        view = await self.get(tenant, job)
        now_s = monotonic()
        why = self._scheduler.explain_job(job, now_s) if view.ended is None else None
        if why is None:
            return [f"{job_name(job)} has ended: {view.done:,} items are done, {view.failed:,} failed."]
        return words.of_job(job_name(job), why, self._scheduler.settings, now_s)

    async def cancel(self, tenant: str, job: JobId) -> views.JobView:
        """End a job, unless it has ended; answers when that is recorded."""
        if (await self.get(tenant, job)).ended is None:
            self._post(JobsCancelled((job,)))
            async for view in self.watch(tenant, job):
                if view.ended is not None:
                    break
        return await self.get(tenant, job)

    async def watch(self, tenant: str, job: JobId) -> AsyncGenerator[views.JobView]:
        """A job now, at its next news, and at least once a second."""
        while True:
            news = self._news.setdefault(job, asyncio.get_running_loop().create_future())
            yield await self.get(tenant, job)
            await asyncio.wait((news,), timeout=_NEWS_S)

    async def results(
        self, tenant: str, job: JobId, first: int, limit_bytes: int
    ) -> AsyncGenerator[tuple[int, Results, views.JobView]]:
        """Recorded results in the order of the items from `first` on, until the job has ended.

        Yields (index of the first item, results, progress); at least once a second, perhaps without results.
        """
        items = (await self.get(tenant, job)).spec.items
        if first > items:
            raise Refused(Refusal.BAD_INPUT, f"the job has {items} items; item {first} was asked for")
        with self.keeping(job):
            async for view in self.watch(tenant, job):
                while True:
                    try:
                        part = await self._trouble.reading(self._store.results(job, first, limit_bytes))
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
        found = await self._trouble.reading(self._store.results(job, first, limit_bytes, damage))
        for message in damage:
            self._trouble.damaged(message)
        return found

    async def next_settled(self, job: JobId, first: int) -> int | None:
        """The first recorded item behind a gap in the results of an ended job; None: there are no more."""
        return await self._trouble.reading(self._store.next_settled(job, first))

    @contextmanager
    def keeping(self, job: JobId) -> Iterator[None]:
        """Inside, a job is not forgotten, however long ago it ended."""
        self.kept[job] += 1
        try:
            yield
        finally:
            self.kept[job] -= 1
            if not self.kept[job]:
                del self.kept[job]

    def take(self, record: ResultsRecord | FailureRecord | EndRecord) -> None:
        """This of a job is recorded: whoever watches it is to see."""
        if isinstance(record, EndRecord):
            job, outcome = self._scheduler.jobs[record.job], record.outcome
            label = "failed" if outcome is Outcome.DONE and job.failed == job.spec.items else outcome.value
            self._metrics.observe_job(job.spec.model, label, monotonic() - job.submitted_s)
            self.quotes.pop(record.job, None)
            self.ended.add(record.job)
            self._post(JobsClosed((record.job,)))
        news = self._news.pop(record.job, None)
        if news is not None:
            news.set_result(None)


def _no_job(job: JobId) -> Refused:
    return Refused(Refusal.NOT_FOUND, f"no job is called {job_name(job)}; `carpool jobs` lists them")


def _view(stored: StoredJob) -> views.JobView:
    deadline_in_s = stored.spec.deadline_s - monotonic()
    return views.JobView(stored.spec, stored.done, stored.failed, 0, 0, stored.age_s, deadline_in_s, stored.outcome)
