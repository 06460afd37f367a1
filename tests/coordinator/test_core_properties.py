"""Whatever happens, in whatever order: no item has two results, none is lost, and every job ends."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.core.effects import Drop, EndRecord, Grant, JobRecord, Outcome, Record, ResultsRecord, Revoke
from coordinator.core.events import (
    Beats,
    HeldLease,
    JobsCancelled,
    LeaseEnd,
    LotId,
    LotLost,
    NodesCordoned,
    Token,
)
from coordinator.core.lease import ranges_of
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import MODEL, Town, items_of

LOTS, CARS = 3, 2
SETTINGS = SchedulingSettings(slice_least_s=0.01, slice_target_s=0.1)


class Chaos(RuleBasedStateMachine):
    """Three lots of two cars, whose tokens may outlive their leases, and a coordinator that restarts."""

    @initialize()
    def begin(self) -> None:
        self.town = Town(SETTINGS)
        self.epoch = 1
        self.records: list[Record] = []
        self.granted: dict[Token, Grant] = {}
        self.finished: dict[Token, int] = {}  # bitmaps, as the cars know them
        self.incarnations = dict.fromkeys(range(LOTS), 0)
        self.joined: set[int] = set()

    def take(self) -> None:
        """Note what the last step ordered."""
        self.records.extend(self.town.effects.save)
        for order in self.town.effects.send:
            if isinstance(order, Grant):
                self.granted[order.token] = order
            elif isinstance(order, Revoke):
                self.granted.pop(order.token, None)
            elif isinstance(order, Drop):
                for token in order.tokens:
                    self.granted.pop(token, None)

    @rule(items=st.integers(1, 60), interactive=st.booleans())
    def submit(self, items: int, interactive: bool) -> None:
        job = self.town.submit(items, interactive=interactive)
        if not interactive:
            self.records.append(JobRecord(self.town.scheduler.jobs[job].spec))
        self.take()

    @rule(lot=st.integers(0, LOTS - 1), back=st.booleans())
    def join(self, lot: int, back: bool) -> None:
        """A lot joins: a new process, or the old one with what it still holds."""
        if not back or lot not in self.joined:
            self.incarnations[lot] += 1
            for token in [token for token, grant in self.granted.items() if grant.lot == lot]:
                del self.granted[token]
        self.joined.add(lot)
        held = tuple(
            HeldLease(token, grant.node, grant.job, MODEL, grant.ranges, self.finished.get(token, 0))
            for token, grant in self.granted.items()
            if grant.lot == lot and not grant.interactive
        )
        for token in [token for token, grant in self.granted.items() if grant.lot == lot and grant.interactive]:
            del self.granted[token]
        self.town._sequences.pop(LotId(lot), None)
        self.town.park(
            CARS, lot=lot, first=lot * CARS, incarnation=self.incarnations[lot], held=held, batch_items=1
        )
        self.take()

    @rule(lot=st.integers(0, LOTS - 1), dies=st.booleans())
    def lose(self, lot: int, dies: bool) -> None:
        if lot in self.joined and LotId(lot) in self.town.scheduler.fleet.lots:
            self.town.step(LotLost(LotId(lot)))
            self.take()
            if dies:
                self.town.step(after_s=1.0)
                self.take()

    @rule(row=st.integers(0, LOTS * CARS - 1))
    def unplug(self, row: int) -> None:
        if row < self.town.scheduler.fleet.size:
            self.town.unplug(row)
            self.take()

    @rule(data=st.data(), ends=st.booleans())
    def report(self, data: st.DataObject, ends: bool) -> None:
        """A car reports some items done, some failed, some running: perhaps of a lease that is long gone."""
        if not self.granted:
            return
        token = data.draw(st.sampled_from(sorted(self.granted)))
        grant = self.granted[token]
        items = len(items_of(grant))
        done = data.draw(st.integers(0, (1 << items) - 1)) & ~self.finished.get(token, 0)
        failing = data.draw(st.integers(0, (1 << items) - 1)) & ~done if data.draw(st.booleans()) else 0
        errors = tuple((offset, "model", "no") for offset in range(items) if failing >> offset & 1)
        running = data.draw(st.integers(0, (1 << items) - 1))
        self.finished[token] = self.finished.get(token, 0) | done
        self.town.report(
            token,
            lot=grant.lot,
            done=done,
            errors=errors,
            running=running,
            ended=LeaseEnd.FINISHED if ends else None,
        )
        if ends:
            self.granted.pop(token, None)
        self.take()

    @rule(seconds=st.sampled_from((0.1, 1.0, 6.0, 60.0)))
    def wait(self, seconds: float) -> None:
        self.town.step(after_s=seconds)
        self.take()

    @rule(row=st.integers(0, LOTS * CARS - 1))
    def beat(self, row: int) -> None:
        if row < self.town.scheduler.fleet.size:
            self.town.step(Beats(np.array([row], np.int32)))
            self.take()

    @rule(row=st.integers(0, LOTS * CARS - 1), cordoned=st.booleans())
    def cordon(self, row: int, cordoned: bool) -> None:
        if row < self.town.scheduler.fleet.size:
            self.town.step(NodesCordoned(np.array([row], np.int32), cordoned))
            self.take()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.town.scheduler.jobs:
            job = data.draw(st.sampled_from(sorted(self.town.scheduler.jobs)))
            self.town.step(JobsCancelled((job,)))
            self.take()

    @rule()
    def restart(self) -> None:
        """The coordinator dies and comes back with what was saved."""
        self.epoch += 1
        town = Town(scheduler=Scheduler.restore(SETTINGS, self.epoch, self.records, self.town.now_s))
        town.now_s, town._jobs = self.town.now_s, self.town._jobs
        town.scheduler.validate()
        self.town = town

    @invariant()
    def no_item_has_two_results(self) -> None:
        if not hasattr(self, "records"):
            return
        seen: set[tuple[int, int]] = set()
        for record in self.records:
            if isinstance(record, ResultsRecord):
                for first, count in ranges_of(record.ranges, record.accepted):
                    items = {(record.job, item) for item in range(first, first + count)}
                    assert not seen & items, "an item has two accepted results"
                    seen |= items

    def teardown(self) -> None:
        """Once faults stop, every job ends."""
        if not hasattr(self, "town"):
            return
        town, size = self.town, self.town.scheduler.fleet.size
        if size:
            town.step(NodesCordoned(np.arange(size, dtype=np.int32), False))
        self.granted.clear()
        for lot in range(LOTS):
            self.incarnations[lot] += 1
            town._sequences.pop(LotId(lot), None)
            town.park(CARS, lot=lot, first=lot * CARS, incarnation=self.incarnations[lot] + 1000)
            self.take()
        for _ in range(5000):
            if not self.granted:
                break
            _, grant = self.granted.popitem()
            if grant.token in town.scheduler.leases:
                town.finish(grant)
                self.take()
        live = [job for job in town.scheduler.jobs.values() if job.ended is None]
        assert not live, f"{len(live)} jobs never ended"
        ends = [record.job for record in self.records if isinstance(record, EndRecord)]
        assert len(ends) == len(set(ends)), "a job ended twice"
        assert all(record.outcome in Outcome for record in self.records if isinstance(record, EndRecord))


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
