"""Submissions: batch jobs on their way in, until they are recorded. Knows neither lots nor results.

A job is quoted before it is taken, and its key is kept for it meanwhile: another submission under the key waits.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from math import inf
from time import monotonic

from coordinator import words
from coordinator.catalogue import Catalogue
from coordinator.core.events import Event, JobId, JobSpec, JobsSaved, JobsSubmitted
from coordinator.core.plan import Quote
from coordinator.core.scheduler import Scheduler
from coordinator.items import Items
from coordinator.jobs import Jobs
from coordinator.metrics import Metrics
from coordinator.refusal import Refusal, Refused
from coordinator.store import Full, Intake, Store, Submission
from coordinator.trouble import Trouble
from coordinator.wire import job_name


@dataclass(slots=True)
class _Waiting:
    """A submission on its way to the store."""

    submission: Submission
    saved: asyncio.Future[None]


class Submissions:
    """All that are under way."""

    def __init__(
        self,
        scheduler: Scheduler,
        store: Store,
        catalogue: Catalogue,
        metrics: Metrics,
        trouble: Trouble,
        jobs: Jobs,
        newest_job: JobId,
        post: Callable[[Event], None],
        post_at_once: Callable[[Event], None],
    ) -> None:
        """`newest_job` is the last that was recorded before; `post` tells the core soon, `post_at_once` now."""
        self._scheduler = scheduler
        self._store = store
        self._catalogue = catalogue
        self._metrics = metrics
        self._trouble = trouble
        self._jobs = jobs
        self._post = post
        self._post_at_once = post_at_once
        self._numbers = count(newest_job + 1)
        self._waiting: dict[JobId, _Waiting] = {}
        self._claims: dict[tuple[str, str], asyncio.Future[None]] = {}  # keys of submissions on their way

    def intake(self, model: str) -> Intake:
        """Begin to take in a batch job for a model."""
        self._catalogue.offered(model)
        try:
            return self._store.intake(JobId(next(self._numbers)), model)
        except Full as full:
            raise self._trouble.no_room(full) from None

    async def take_in(self, intake: Intake, items: Items) -> None:
        """Take the next items of a batch job; refused when one of them cannot be run."""
        self._catalogue.check_sizes(self._catalogue.offered(intake.model), items.lengths, intake.items)
        try:
            await intake.add(items)
        except Full as full:
            raise self._trouble.no_room(full) from None

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
            self._catalogue.refuse_empty()
        if key:
            await self._claim(tenant, key)
        with ExitStack() as claimed:
            claimed.callback(self._unclaim, tenant, key)
            if key and (known := await self.known(tenant, key, intake)) is not None:
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
            self._jobs.quotes[spec.job] = self._quote(spec, now_s)
            claimed.pop_all()  # until it is recorded
        waiting = _Waiting(Submission(spec, intake), asyncio.get_running_loop().create_future())
        self._waiting[spec.job] = waiting
        self._post_at_once(JobsSubmitted((spec,)))  # the next quote counts it
        await asyncio.shield(waiting.saved)
        return spec.job, False

    async def known(self, tenant: str, key: str, intake: Intake | None = None) -> JobId | None:
        """The recorded job of a tenant under this key; refused when its content is other than this."""
        stored = await self._trouble.reading(self._store.find(tenant, key))
        if stored is None:
            return None
        if intake is not None and stored.digest != intake.digest:
            raise Refused(
                Refusal.ALREADY_EXISTS,
                f"the key {key!r} belongs to {job_name(stored.spec.job)} with other content; use another key",
            )
        return stored.spec.job

    def waiting(self, job: JobId) -> Submission:
        """A job that is to be recorded, as its tenant handed it in."""
        return self._waiting[job].submission

    def recorded(self, spec: JobSpec) -> None:
        """This job is durable."""
        waiting = self._waiting.pop(spec.job)
        self._unclaim(spec.tenant, spec.key)
        waiting.saved.set_result(None)
        self._post(JobsSaved((spec.job,)))

    def _quote(self, spec: JobSpec, now_s: float) -> Quote:
        """What a job may expect; refused when that is less than it asks for."""
        quote = self._scheduler.quote(spec, now_s)
        if quote.on_time < spec.least_on_time:
            self._metrics.count_rejection("too_unsure")
            raise Refused(Refusal.TOO_UNSURE, words.of_refusal(spec, quote, now_s))
        return quote

    async def _claim(self, tenant: str, key: str) -> None:
        """Keep a key for one job, when no other one has it any more."""
        while (claim := self._claims.get((tenant, key))) is not None:
            await asyncio.wait((claim,))
        self._claims[tenant, key] = asyncio.get_running_loop().create_future()

    def _unclaim(self, tenant: str, key: str) -> None:
        """Give a key free, if there is one."""
        if key:
            self._claims.pop((tenant, key)).set_result(None)
