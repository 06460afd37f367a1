"""A job: which of its items are open, lent, finished or failed, and what became of those that went wrong."""

from dataclasses import dataclass
from enum import IntEnum
from math import inf

from coordinator.core.effects import Outcome
from coordinator.core.events import JobSpec, LotId, Token
from coordinator.core.lease import Lease
from coordinator.core.ranges import Range, Ranges


class Band(IntEnum):
    """How the plan sees a job: the first band goes before the second."""

    PLANNED = 0  # it will make its deadline; of requests every one that has a deadline
    OPEN = 1  # it has no deadline: what is worth most goes first
    SPARE = 2  # the plan has no room for it: it gets what is left over
    LATE = 3  # its deadline has passed


_MANY = 64
"""Leases that are not looked at one by one."""


@dataclass(slots=True)
class Trouble:
    """The history of one item that has gone wrong at least once."""

    errors: int = 0
    deaths: int = 0  # processes that ended while they ran it alone
    solo: bool = False  # suspected of killing a process: run it with nothing else in flight
    spared: bool = False  # a process died while it said an answer: it was not suspected then
    last_lot: int = -1  # cars of one lot share a process and its accelerator
    code: str = ""
    message: str = ""


class Job:
    """One job. Every item is in exactly one place: open, waiting (open, with a history), lent, done or failed."""

    __slots__ = (
        "band",
        "busy_s",
        "done",
        "ended",
        "entry",
        "failed",
        "heard_s",
        "leases",
        "lent",
        "open",
        "promised",
        "ready",
        "retried",
        "sequence",
        "spec",
        "started_s",
        "submitted_s",
        "troubles",
        "twin",
        "urgency",
        "waiting",
    )

    def __init__(self, spec: JobSpec, sequence: int, submitted_s: float, ready: bool) -> None:
        self.spec = spec
        self.sequence = sequence  # order of submission
        self.submitted_s = submitted_s
        self.started_s: float | None = None  # its first lease
        self.twin = spec.twin  # or the job whose twin it is
        self.heard_s = submitted_s  # when something came of it last
        self.ready = ready  # its submission is saved, or need not be
        self.entry = 0  # number of its entry in the scheduler's queue; 0: it stands in none
        self.retried = False  # it stands among those of which only items that went wrong are left
        self.open = Ranges.whole(spec.items)
        self.waiting: dict[int, Trouble] = {}  # items to try again, in order of return
        self.troubles: dict[int, Trouble] = {}  # of all items that have a history
        self.lent = 0
        self.done = 0
        self.failed = 0
        self.leases: dict[Token, Lease] = {}
        self.busy_s: tuple[tuple[Token, float], ...] = ()  # as in `EndRecord`
        self.ended: Outcome | None = None
        self.promised = False  # the plan has let it in
        self.band = Band.PLANNED if spec.deadline_s < inf else Band.OPEN
        self.urgency = -self.density if self.band is Band.OPEN else spec.deadline_s  # the smaller, the sooner

    @property
    def placeable(self) -> int:
        """Items that could be lent now."""
        return self.open.count + len(self.waiting) if self.ready and self.ended is None else 0

    @property
    def density(self) -> float:
        """Its value for the work that is not settled, a model's item of it: what is almost done is worth most."""
        return self.spec.value / (max(self.spec.items - self.settled, 1) * self.spec.item_work)

    def left(self, now_s: float) -> float:
        """Items that should not be done yet, if leases go on as was expected; of many leases the half."""
        if len(self.leases) > _MANY:
            return self.placeable + self.lent / 2.0
        return self.placeable + sum(lease.left(now_s) for lease in self.leases.values())

    @property
    def settled(self) -> int:
        """Items that have a result or an error."""
        return self.done + self.failed

    def carve(self, count: int, lot: LotId, choosy: bool) -> tuple[tuple[Range, ...], bool]:
        """Take out up to `count` items for a node of this lot, and whether they are to run solo.

        Items that went wrong come first; with `choosy` one does not go back to the lot where it did. Nothing may
        be fit: then the ranges are empty.
        """
        again: list[int] = []
        for item, trouble in self.waiting.items():
            if choosy and trouble.last_lot == lot:
                continue
            if trouble.solo:
                if again:
                    break
                del self.waiting[item]
                self.lent += 1
                return ((item, 1),), True
            again.append(item)
            if len(again) == count:
                break
        for item in again:
            del self.waiting[item]
        ranges = tuple(Ranges((item, 1) for item in again)) if again else self.open.take(count)
        self.lent += sum(size for _, size in ranges)
        return ranges, False

    def give_back(self, item_ranges: tuple[Range, ...]) -> None:
        """Return lent items to where they may be lent again."""
        for first, count in item_ranges:
            self.lent -= count
            run = first
            for item in sorted(self.troubles.keys() & range(first, first + count)) if self.troubles else ():
                self.waiting[item] = self.troubles[item]
                if item > run:
                    self.open.add(run, item - run)
                run = item + 1
            if run < first + count:
                self.open.add(run, first + count - run)

    def trouble(self, item: int) -> Trouble:
        """The history of an item, begun if it has none."""
        return self.troubles.setdefault(item, Trouble())
