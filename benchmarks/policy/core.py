"""The core's policy, as the simulator drives it: the real `Scheduler`, told of real events; every car is a lot."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.cars import Fleet
from benchmarks.policy.jobs import Job
from benchmarks.policy.mix import CHAT, FAST_MODEL, HOUR_S, Suite
from benchmarks.policy.orders import Departed, Fact, Orders, Plugged, Reported, Resident, Slice, Submitted
from coordinator.core.effects import EndRecord, Grant, Revoke
from coordinator.core.events import (
    Cause,
    Event,
    Habits,
    JobId,
    JobsClosed,
    JobSpec,
    JobsSaved,
    JobsSubmitted,
    LeaseEnd,
    LotId,
    LotJoined,
    ModelSpeed,
    NodesLeft,
    NodesOffered,
    Progressed,
    Report,
    Rows,
    SpeedsMeasured,
    Token,
)
from coordinator.core.forecast import WEEK_H, Floats, Survival
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings

SETTINGS = SchedulingSettings(
    slice_target_s=1200.0,
    slice_least_s=600.0,
    slice_of_deadline=0.25,
    slice_bytes=1 << 40,
    slices_in_hand=1,
    lease_least_s=1e9,
    silent_after_s=1e12,
    plan_every_s=120.0,
    foresee_every_s=1800.0,
)
"""Long slices for a long week, and plans for hours; nothing is silent and no lease runs out."""

ABLATIONS: dict[str, tuple[str, SchedulingSettings]] = {
    "no-admission": ("base:0.9", replace(SETTINGS, plan_margin=1e6)),
    "no-value": ("base:0.9", replace(SETTINGS, by_value=False)),
    "no-bonus": ("base:0.9", replace(SETTINGS, completion_bonus=False)),
    "no-reserve": ("base:0.9", replace(SETTINGS, reserve=0.0)),
    "no-yields": ("base:0.9", replace(SETTINGS, yields=False)),
    "no-residency": ("weights:0.9", replace(SETTINGS, load_matters_s=1e9)),
    "no-matching": ("churn:0.9", replace(SETTINGS, long_item_s=1e9)),
}
"""The core less one of its ideas, by name: the cell where it should matter, unless another is asked for."""

_EPOCH = 1
_FAR_S = 1e8  # no owner has said when the car leaves
_ITEM_BYTES = 100


class Core:
    """A scheduler, and the facts in its words."""

    def __init__(
        self, fleet: Fleet, suite: Suite, forecast: Survival | None, settings: SchedulingSettings = SETTINGS
    ) -> None:
        self.scheduler = Scheduler(settings, _EPOCH, forecast)
        self._fleet, self._suite = fleet, suite
        self._sequence = 0
        self._closed: list[JobId] = []
        joined: list[Event] = []
        for car in fleet.cars:
            row = np.array([car.number], np.int32)
            profile = "ai5" if car.speed > 1 else "hw4"
            joined.append(LotJoined(LotId(car.number), 1, row, (profile,), np.full(1, 160.0)))
            joined.append(self._speeds(car.number, ""))
        self.scheduler.handle(joined, 0.0)

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        """Tell the core."""
        events: list[Event] = []
        if self._closed:
            events.append(JobsClosed(tuple(self._closed)))
            self._closed = []
        for fact in facts:
            self._tell(fact, now_s, events)
        effects = self.scheduler.handle(events, now_s)
        slices: list[Slice] = []
        yields: list[int] = []
        stops: list[int] = []
        for order in effects.send:
            if isinstance(order, Grant):
                slices.append(Slice(order.token.attempt, order.node, order.job, order.ranges))
            elif isinstance(order, Revoke):
                (yields if order.cause == "yield" else stops).append(order.token.attempt)
        self._closed = [record.job for record in effects.save if isinstance(record, EndRecord)]
        return Orders(slices, yields, stops)

    def wakeup_s(self) -> float | None:
        """When the core wants to be called."""
        return self.scheduler.next_wakeup_s()

    def _tell(self, fact: Fact, now_s: float, events: list[Event]) -> None:
        match fact:
            case Reported():
                events.append(self._report(fact))
            case Submitted(job):
                spec = _spec(job)
                events.append(JobsSubmitted((spec,)))
                if not job.interactive:
                    events.append(JobsSaved((spec.job,)))
            case Resident(car, model):
                events.append(self._speeds(car, model))
            case Plugged(car, age_s):
                events.append(self._speeds(car, ""))
                events.append(self._offer(car, age_s, now_s))
            case Departed(car):
                causes = np.array([Cause.UNPLUGGED], np.uint8)
                events.append(NodesLeft(np.array([car], np.int32), causes))
            case _:
                assert_never(fact)

    def _report(self, fact: Reported) -> Progressed:
        self._sequence += 1
        ended = LeaseEnd.FINISHED if fact.whole else LeaseEnd.YIELDED if fact.gave_way else LeaseEnd.UNPLUGGED
        report = Report(
            Token(_EPOCH, fact.slice),
            0,
            done=(1 << fact.done) - 1,
            ended=ended,
            useful_s=fact.useful_s,
            lost_s=fact.lost_s,
            loading_s=fact.loading_s,
        )
        return Progressed(LotId(fact.car), self._sequence, (report,))

    def _offer(self, car: int, age_s: float, now_s: float) -> NodesOffered:
        habits = Habits(
            np.array([self._fleet.cars[car].cohort], np.intp),
            np.array([now_s / HOUR_S % WEEK_H]),
            np.array([age_s]),
            np.ones(1),
            np.zeros(1, np.bool_),
        )
        return NodesOffered(np.array([car], np.int32), np.array([now_s + _FAR_S]), np.ones(1), habits)

    def _speeds(self, car: int, resident: str) -> SpeedsMeasured:
        speed = self._fleet.cars[car].speed
        models = [model for model in self._suite.models if model != FAST_MODEL or speed > 1]
        speeds = {model: ModelSpeed(speed, 0.0 if model == resident else self._suite.cold_s, 1) for model in models}
        return SpeedsMeasured(LotId(car), {**speeds, CHAT: ModelSpeed(speed, 0.0, 1)})


class Oracle:
    """Knows when every car leaves and when it comes back; a `Survival`."""

    def __init__(self, fleet: Fleet) -> None:
        self._stays = [[(stay.begin_s, stay.end_s) for stay in car.stays] for car in fleet.cars]

    def plugged_in(
        self,
        rows: Rows,
        cohort: NDArray[np.integer],
        hour_of_week: Floats,
        now_s: float,
        *,
        age_s: Floats | float = 0.0,
        remaining_s: Floats | float = np.nan,
        pace: Floats | float = 1.0,
    ) -> None:
        """It knew."""

    def left(self, rows: Rows, now_s: float, *, departed: bool = True) -> None:
        """It knew."""

    def stays(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """1 or 0: [H] or [N, H] seconds -> [N, H]."""
        ends_s = np.array([self._end_s(row, now_s) for row in rows.tolist()])
        there: Floats = (ends_s[:, None] >= now_s + horizon_s).astype(np.float64)
        return there

    def present(self, rows: Rows, horizon_s: Floats, now_s: float) -> Floats:
        """1 or 0: [H] or [N, H] seconds -> [N, H]."""
        then_s = np.broadcast_to(now_s + horizon_s, (len(rows), np.shape(horizon_s)[-1]))
        there = np.zeros(then_s.shape)
        for at, row in enumerate(rows.tolist()):
            for begin_s, end_s in self._stays[row]:
                there[at] += (begin_s <= then_s[at]) & (then_s[at] < end_s)
        return there

    def _end_s(self, row: int, now_s: float) -> float:
        return next((end_s for begin_s, end_s in self._stays[row] if begin_s <= now_s < end_s), -np.inf)


def _spec(job: Job) -> JobSpec:
    return JobSpec(
        JobId(job.number),
        "local",
        "grpc",
        job.model,
        job.items,
        _ITEM_BYTES,
        job.interactive,
        job.deadline_s,
        job.value,
        item_work=job.item_s,
    )
