"""Tenants: what they hand in, what they were told, and that they ask again when the coordinator does not answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from benchmarks.world import items
from benchmarks.world.clock import Clock, Process
from benchmarks.world.items import Item
from coordinator.core.effects import Outcome
from coordinator.core.events import JobId


@dataclass(slots=True, eq=False)
class Submission:
    """One job or request of a tenant, and what is known to the tenant of it."""

    number: int
    tenant: str
    model: str
    items: list[Item]
    interactive: bool
    timeout_s: float | None
    job: JobId | None = None  # the tenant was told, or its request is open
    answers: dict[int, bytes | str] = field(default_factory=dict)  # of a request: results, or codes of failures
    outcome: Outcome | None = None
    cancelled: bool = False
    abandoned: bool = False  # a request whose coordinator is gone
    refused: bool = False  # the last time it was handed in
    asking: bool = True  # its tenant is about to hand it in

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return f"key-{self.number}"

    @property
    def over(self) -> bool:
        """Whether its tenant has nothing to wait for."""
        return self.outcome is not None or self.abandoned


class Desk(Protocol):
    """Where submissions go: a coordinator."""

    def submit(self, submission: Submission) -> bool:
        """Take this in, False: there is no room for it now; its `job` is set when it is accepted."""

    def cancel(self, job: JobId) -> None:
        """Nobody wants this job any more."""


class Tenants:
    """All tenants of a world."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        names: Sequence[str],
        models: list[str],
        desk: Callable[[], Desk | None],
        by_key: dict[str, Submission],
        every_s: float,
    ) -> None:
        """One comes about every `every_s` seconds; `desk` gives the coordinator that answers now."""
        self.process = Process()
        self.quiet = False  # nothing new comes
        self.by_key = by_key
        self.waiting: dict[int, Submission] = {}  # those that are not over
        self._clock, self._generator, self._names, self._models = clock, generator, names, models
        self._desk, self._every_s = desk, every_s
        self._clock.after(0.0, self.process, self._arrive)

    def hand_in(self, count: int, *, interactive: bool = False, poisoned: bool = False) -> Submission:
        """A tenant wants this many items run."""
        number = len(self.by_key)
        drawn = items.draw(self._generator, number, count, poisoned)
        timeout_s = self._generator.choice((1.0, 5.0, None)) if interactive else None
        tenant, model = self._generator.choice(self._names), self._generator.choice(self._models)
        submission = Submission(number, tenant, model, drawn, interactive, timeout_s)
        self.by_key[submission.key] = submission
        self.waiting[number] = submission
        self._submit(submission)
        return submission

    def hand_in_twice(self) -> bool:
        """A tenant does not wait for the answer and asks again, now and then for something else under the same key;
        False when nobody listens."""
        desk = self._desk()
        if desk is None:
            return False
        first = self.hand_in(self._generator.randint(1, 5))
        again = first
        if self._generator.random() < 0.3:
            again = replace(first, items=items.draw(self._generator, first.number, len(first.items) + 1, False))
        desk.submit(again)
        return True

    def cancel_one(self) -> bool:
        """One of those who wait wants its job no more; False when nobody waits."""
        desk = self._desk()
        open_jobs = [submission for submission in self.waiting.values() if submission.job is not None]
        if desk is None or not open_jobs:
            return False
        chosen = self._generator.choice(open_jobs)
        assert chosen.job is not None
        chosen.cancelled = True
        desk.cancel(chosen.job)
        return True

    def sweep(self) -> None:
        """Forget whom nothing is owed any more."""
        for number in [number for number, submission in self.waiting.items() if submission.over]:
            del self.waiting[number]

    def coordinator_ended(self) -> None:
        """Calls that are open break: requests are given up, jobs handed in again under their keys."""
        for submission in self.waiting.values():
            if submission.interactive:
                submission.abandoned = True
            elif submission.job is None and not submission.asking:
                self._later(submission)

    def _arrive(self) -> None:
        self._clock.after(self._generator.expovariate(1.0 / self._every_s), self.process, self._arrive)
        self.sweep()
        if not self.quiet and len(self.waiting) < 15:
            interactive = self._generator.random() < 0.5
            most = 3 if interactive else self._generator.choice((5, 30, 200))
            self.hand_in(
                self._generator.randint(1, most), interactive=interactive, poisoned=self._generator.random() < 0.1
            )

    def _submit(self, submission: Submission) -> None:
        desk = self._desk()
        if submission.job is not None or submission.abandoned:
            return
        submission.asking = False
        if desk is None:
            self._later(submission)
        elif not desk.submit(submission):
            submission.refused = True
            submission.abandoned = submission.interactive and self._generator.random() < 0.5
            self._later(submission)

    def _later(self, submission: Submission) -> None:
        submission.asking = True
        self._clock.after(0.1 + self._generator.random(), self.process, lambda: self._submit(submission))
