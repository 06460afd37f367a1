"""A core and a few cars for tests: says facts, keeps the effects, and validates after every step."""

from collections.abc import Sequence
from math import inf

import numpy as np

from coordinator.core.effects import Effects, Grant, JobRecord
from coordinator.core.events import (
    Cause,
    Event,
    HeldLease,
    JobId,
    JobSpec,
    JobsSaved,
    JobsSubmitted,
    LeaseEnd,
    LotId,
    LotJoined,
    LotLost,
    ModelSpeed,
    NodesLeft,
    NodesOffered,
    Progressed,
    Report,
    SpeedsMeasured,
    Token,
)
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings

MODEL = "minilm"


class Town:
    """One scheduler, its clock, and everything it ordered."""

    def __init__(self, settings: SchedulingSettings | None = None, scheduler: Scheduler | None = None) -> None:
        self.scheduler = scheduler or Scheduler(settings or SchedulingSettings(), epoch=1)
        self.now_s = 100.0
        self.effects = Effects()  # of the last step
        self._sequences: dict[LotId, int] = {}
        self._jobs = 0

    def step(self, *events: Event, after_s: float = 0.0) -> Effects:
        """Let time pass, tell the core these facts, and check every invariant."""
        self.now_s += after_s
        self.effects = self.scheduler.handle(events, self.now_s)
        self.scheduler.validate()
        return self.effects

    def park(
        self,
        cars: int = 1,
        *,
        lot: int = 0,
        first: int = 0,
        items_per_s: float = 100.0,
        window_s: float = 36_000.0,
        incarnation: int = 1,
        held: tuple[HeldLease, ...] = (),
        models: Sequence[str] = (MODEL,),
        batch_items: int = 8,
        to_load: dict[str, float] | None = None,
    ) -> list[Grant]:
        """A lot with so many cars joins and offers them all, each at the whole speed; the grants it gets.

        `to_load`: models that are not resident, and the seconds that loading them takes.
        """
        rows = np.arange(first, first + cars, dtype=np.int32)
        load_s = dict.fromkeys(models, 0.0) | (to_load or {})
        speeds = {model: ModelSpeed(items_per_s, load_s[model], batch_items) for model in load_s}
        self.step(
            LotJoined(LotId(lot), incarnation, rows, ("hw4",) * cars, np.full(cars, 160.0), held),
            SpeedsMeasured(LotId(lot), speeds),
            NodesOffered(rows, np.full(cars, self.now_s + window_s), np.ones(cars)),
        )
        return self.grants()

    def submit(
        self,
        items: int,
        *,
        interactive: bool = False,
        deadline_s: float = inf,
        item_bytes: int = 100,
        model: str = MODEL,
        tenant: str = "local",
        value: float = 0.0,
        item_work: float = 1.0,
        prefer: int | None = None,
    ) -> JobId:
        """A job is asked for and, if it is a batch job, recorded; a value of 0 stands for one an item."""
        self._jobs += 1
        job = JobId(self._jobs)
        spec = JobSpec(
            job,
            tenant,
            "grpc",
            model,
            items,
            item_bytes,
            interactive,
            deadline_s,
            value or float(items),
            item_work=item_work,
            prefer=prefer,
        )
        effects = self.step(JobsSubmitted((spec,)))
        if not interactive:
            assert effects.save == [JobRecord(spec)], "a batch job is saved before anything else"
            assert not self.grants(), "a car got work that a restart would forget"
            self.step(JobsSaved((job,)))
        return job

    def grants(self) -> list[Grant]:
        """Grants of the last step."""
        return [order for order in self.effects.send if isinstance(order, Grant)]

    def report(
        self, token: Token, *, lot: int = 0, sequence: int | None = None, after_s: float = 0.0, **news: object
    ) -> Effects:
        """A lot reports on one lease."""
        if sequence is None:
            sequence = self._sequences[LotId(lot)] = self._sequences.get(LotId(lot), 0) + 1
        report = Report(token, serial=sequence, **news)  # type: ignore[arg-type]
        return self.step(Progressed(LotId(lot), sequence, (report,)), after_s=after_s)

    def finish(self, grant: Grant) -> Effects:
        """The lot reports every item of a grant done."""
        items = sum(count for _, count in grant.ranges)
        return self.report(grant.token, lot=grant.lot, done=(1 << items) - 1, ended=LeaseEnd.FINISHED, useful_s=0.1)

    def unplug(self, row: int) -> Effects:
        """A driver takes a car."""
        return self.step(NodesLeft(np.array([row], np.int32), np.array([Cause.UNPLUGGED], np.uint8)))

    def kill(self, lot: int = 0) -> Effects:
        """The process of a lot ends without a word, and does not come back in time."""
        self.step(LotLost(LotId(lot)))
        return self.step(after_s=self.scheduler.settings.reconnect_grace_s)

    def work_off(self, grants: list[Grant], most_steps: int = 10_000) -> None:
        """Finish these grants and all that follow from them."""
        queue = list(grants)
        for _ in range(most_steps):
            if not queue:
                return
            self.finish(queue.pop(0))
            queue.extend(self.grants())
        raise AssertionError("work without end")


def items_of(grant: Grant) -> list[int]:
    """Items of a grant, in order."""
    return [item for first, count in grant.ranges for item in range(first, first + count)]
