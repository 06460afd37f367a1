"""The scheduler: facts in, orders out. It alone changes jobs, leases and nodes, and only in `handle`."""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import assert_never

import numpy as np

from coordinator.core import explain, invariants, views
from coordinator.core.effects import (
    Acknowledge,
    Disconnect,
    Drain,
    Drop,
    Effects,
    EndRecord,
    FailureRecord,
    JobRecord,
    Outcome,
    Record,
    ResultsRecord,
    Revoke,
)
from coordinator.core.events import (
    Beats,
    Cause,
    Event,
    JobId,
    JobsCancelled,
    JobsClosed,
    JobSpec,
    JobsSaved,
    JobsSubmitted,
    LeaseEnd,
    LotId,
    LotJoined,
    LotLeft,
    LotLost,
    NodesCordoned,
    NodesDrained,
    NodesLeft,
    NodesOffered,
    Progressed,
    Report,
    Rows,
    SpeedsMeasured,
    Token,
)
from coordinator.core.explain import JobExplanation, NodeExplanation, RequestExplanation
from coordinator.core.forecast import Survival
from coordinator.core.hindsight import Hindsight
from coordinator.core.job import Band, Job
from coordinator.core.lease import Lease, ranges_of
from coordinator.core.ledger import Ledger
from coordinator.core.placement import Placement
from coordinator.core.plan import Plan, Quote
from coordinator.core.queues import Queues
from coordinator.core.recall import Recall
from coordinator.core.settings import SchedulingSettings
from coordinator.core.snapshot import Snapshot
from coordinator.core.state import State
from coordinator.core.watch import Watch

_SILENCE_CHECK_S = 1.0

_END_OF_CAUSE = {
    Cause.UNPLUGGED: LeaseEnd.UNPLUGGED,
    Cause.DRAINED: LeaseEnd.DRAINED,
    Cause.SILENT: LeaseEnd.SILENT,
    Cause.DIED: LeaseEnd.DIED,
}


class Scheduler:
    """Who runs what. `epoch` numbers this run of the coordinator and is part of every token."""

    def __init__(self, settings: SchedulingSettings, epoch: int, forecast: Survival | None = None) -> None:
        """Without a forecast, windows are taken at their word."""
        self.state = state = State(settings, epoch, forecast)
        self.settings, self.epoch = settings, epoch
        self.fleet, self.jobs, self.leases = state.fleet, state.jobs, state.leases
        self.held, self.tally = state.held, state.tally
        self._queues = Queues(state.shares)
        self._ledger = Ledger(state, self._queues)
        self._plan = Plan(state, self._queues)
        self._placement = Placement(state, self._queues, self._ledger, self._plan)
        self._hindsight = Hindsight(state.fleet)
        self._watch = None if forecast is None else Watch(forecast, state.tally)
        self._sequence = 0
        self._acknowledged: dict[LotId, int] = {}  # the last numbered message of each lot that was applied
        self._deadlines: list[tuple[float, JobId]] = []
        self._broken: dict[LotId, float] = {}  # lots whose link broke, and until when they may come back
        self._silence_check_s = -inf

    def handle(self, events: Sequence[Event], now_s: float) -> Effects:
        """Take facts in, in order, and say what to do. `now_s` never goes back."""
        effects = Effects()
        self._hindsight.look(now_s)
        for event in events:
            self._apply(event, now_s, effects)
        self._expire(now_s, effects)
        if self._watch is not None:
            self._watch.settle(now_s)
        planned = self._plan.make(now_s)
        if planned:
            self._placement.residency.plan(self._plan)
            self._queues.unblock()
        self._placement.place(now_s, effects)
        if planned and self.settings.yields:
            Recall(self.state, self._placement.matching, self._plan.supply.strengths, effects).serve(
                self._plan.needs, now_s
            )
        return effects

    def next_wakeup_s(self) -> float | None:
        """Call `handle((), now)` by then even if nothing happens; None when there is nothing to wait for."""
        times = [*self._broken.values()]
        expiry_s = self._ledger.next_expiry_s()
        if expiry_s is not None:
            times.append(expiry_s)
        if self._deadlines:
            times.append(self._deadlines[0][0])
        plan_s = self._plan.next_s()
        if plan_s is not None:
            times.append(plan_s)
        if self.fleet.lots:
            times.append(self._silence_check_s + _SILENCE_CHECK_S)
        return min(times, default=None)

    def snapshot(self, now_s: float) -> Snapshot:
        """Counts for metrics and consoles."""
        return views.snapshot(self.state, self._hindsight.ratio(), now_s)

    def quote(self, spec: JobSpec, now_s: float) -> Quote:
        """What a batch job may expect if it is submitted now. Changes nothing."""
        return self._plan.quote(spec, now_s)

    def explain_job(self, job: JobId, now_s: float) -> JobExplanation | None:
        """Why a job that has not ended waits; None when there is none."""
        return explain.explain_job(self.state, self._plan, self._placement, job, now_s)

    def explain_request(self, spec: JobSpec, now_s: float) -> RequestExplanation:
        """Why an interactive job finds no node."""
        return explain.explain_request(self.state, self._placement, spec, now_s)

    def explain_node(self, row: int, now_s: float) -> NodeExplanation | None:
        """Why a node has the work that it has; None when it has not joined."""
        return explain.explain_node(self.state, self._placement, row, now_s)

    def chances(self, row: int, now_s: float) -> tuple[tuple[float, float], ...]:
        """The chance that a node stays for each of some hours of its own clock; none without a forecast."""
        return () if self._watch is None else self._watch.chances(row, now_s)

    def validate(self) -> None:
        """Check every invariant; raises AssertionError with the one that does not hold."""
        invariants.validate(self.state)

    @classmethod
    def restore(
        cls,
        settings: SchedulingSettings,
        epoch: int,
        records: Iterable[Record],
        now_s: float,
        forecast: Survival | None = None,
    ) -> "Scheduler":
        """The core again, from what was saved: jobs and what is settled of them, but no node and no lease.

        A deadline in a restored `JobSpec` is in the seconds of this run.
        """
        scheduler = cls(settings, epoch, forecast)
        for record in records:
            scheduler._replay(record, now_s)
        for job in scheduler.jobs.values():
            scheduler._admit(job, now_s)
        return scheduler

    # Facts

    def _apply(self, event: Event, now_s: float, effects: Effects) -> None:
        match event:
            case Progressed():
                self._progressed(event, now_s, effects)
            case JobsSubmitted():
                for spec in event.jobs:
                    self._submit(spec, now_s, effects)
            case JobsSaved():
                for job_id in event.jobs:
                    self.jobs[job_id].ready = True
                    self._admit(self.jobs[job_id], now_s)
            case JobsClosed():
                for job_id in event.jobs:
                    del self.jobs[job_id]
            case JobsCancelled():
                for job_id in event.jobs:
                    job = self.jobs.get(job_id)
                    if job is not None and job.ended is None:
                        self._end_job(job, Outcome.CANCELLED, "cancelled", now_s, effects)
            case Beats():
                self._hear(event.node, now_s, effects)
            case NodesOffered():
                self._offered(event, now_s)
            case NodesLeft():
                self._left(event, now_s, effects)
            case SpeedsMeasured():
                if event.lot in self.fleet.lots:
                    self.fleet.measure(event.lot, event.speeds, now_s)
            case LotJoined():
                self._join(event, now_s, effects)
            case LotLost():
                self._lose(event.lot, now_s)
            case LotLeft():
                self._broken.pop(event.lot, None)
                self._leave_lot(event.lot, Cause.DRAINED, now_s, effects)
                self.fleet.lots[event.lot].connected = False
            case NodesCordoned():
                self.fleet.cordoned[event.node] = event.cordoned
                self.fleet.refresh_all(event.node, now_s)
            case NodesDrained():
                self._drain(event.node, now_s, effects)
            case _:
                assert_never(event)

    def _submit(self, spec: JobSpec, now_s: float, effects: Effects) -> None:
        self._sequence += 1
        job = Job(spec, self._sequence, now_s, ready=spec.interactive)
        self.jobs[spec.job] = job
        if spec.twin in self.jobs:
            self.jobs[spec.twin].twin = spec.job
        self.tally.jobs_submitted[spec.api, spec.model, spec.tenant] += 1
        deadline_s = spec.deadline_s
        if spec.interactive:
            deadline_s = min(deadline_s, now_s + self.settings.interactive_timeout_s)
            self._queues.put(job)
        else:
            effects.save.append(JobRecord(spec))
        if deadline_s < inf:
            heappush(self._deadlines, (deadline_s, spec.job))

    def _admit(self, job: Job, now_s: float) -> None:
        """A batch job may run from now on."""
        if job.ended is None:
            self._plan.admit(job, now_s)
            self._queues.put(job)

    def _progressed(self, event: Progressed, now_s: float, effects: Effects) -> None:
        if event.sequence:
            effects.acknowledge.append(Acknowledge(event.lot, event.sequence))
            if event.sequence <= self._acknowledged.get(event.lot, 0):
                self._end_again(event, now_s)
                return  # sent again after a reconnection
            self._acknowledged[event.lot] = event.sequence
        for report in event.reports:
            lease = self.leases.get(report.token)
            if lease is not None and lease.lot == event.lot:
                self._report(lease, report, now_s, effects)
                continue
            late = report.done.bit_count() + len(report.errors)
            if late:
                self.tally.results_rejected["stale_token"] += late
            if report.ended is None:
                effects.send.append(Revoke(event.lot, report.token, "unknown"))
        if event.left is not None:
            self._left(event.left, now_s, effects)

    def _end_again(self, event: Progressed, now_s: float) -> None:
        """End what a lot still held when it came back, because it did not know that its end had been told."""
        for report in event.reports:
            lease = self.leases.get(report.token)
            if report.ended is not None and lease is not None and lease.lot == event.lot:
                self._ledger.end(lease, report.ended, now_s)

    def _report(self, lease: Lease, report: Report, now_s: float, effects: Effects) -> None:
        job = self.jobs[lease.job]
        undone = lease.undone
        accepted = report.done & undone
        if accepted:
            count = accepted.bit_count()
            lease.done |= accepted
            job.lent -= count
            job.done += count
            self.tally.items_finished[job.spec.label, lease.model, "done"] += count
            self.fleet.items_done[lease.node] += count
            effects.record(
                lease.interactive,
                ResultsRecord(lease.job, report.serial, lease.ranges, report.done, accepted),
            )
        if report.done & ~undone:
            self.tally.results_rejected["duplicate"] += (report.done & ~undone).bit_count()
        for offset, code, message in report.errors:
            if undone >> offset & 1 and offset < lease.items:
                self._item_error(job, lease, offset, code, message, effects)
        if report.running is not None:
            lease.running = report.running
        lease.spoke = lease.spoke or report.spoke
        if accepted or report.spoke:
            job.heard_s = now_s
        if lease.interactive and report.busy_s > 0:
            job.busy_s += ((lease.token, report.busy_s),)
        self._ledger.prolong(lease, now_s)
        self._ledger.meter(
            lease,
            report.useful_s,
            report.lost_s,
            report.loading_s,
            report.energy_modelled_j,
            report.awake_modelled_j,
        )
        if report.ended is not None or not lease.undone:
            self._ledger.end(lease, report.ended or LeaseEnd.FINISHED, now_s)
            self._finish_if_settled(job, now_s, effects)

    def _item_error(self, job: Job, lease: Lease, offset: int, code: str, message: str, effects: Effects) -> None:
        lease.failed |= 1 << offset
        item = lease.item(offset)
        trouble = job.trouble(item)
        trouble.errors += 1
        trouble.last_lot, trouble.code, trouble.message = lease.lot, code, message
        job.lent -= 1
        if code == "bad_input" or trouble.errors >= self.settings.item_attempts:
            self._fail_item(job, item, effects)
        else:
            job.waiting[item] = trouble
            self._queues.put(job)

    def _fail_item(self, job: Job, item: int, effects: Effects) -> None:
        trouble = job.troubles[item]
        job.failed += 1
        self.tally.items_finished[job.spec.label, job.spec.model, "failed"] += 1
        effects.record(job.spec.interactive, FailureRecord(job.spec.job, item, trouble.code, trouble.message))

    def _offered(self, event: NodesOffered, now_s: float) -> None:
        fleet, rows = self.fleet, event.node
        if self._watch is not None:
            self._watch.offered(event, now_s)
        fleet.present[rows] = True
        fleet.until_s[rows] = event.until_s
        fleet.share[rows] = event.share
        fleet.seen_s[rows] = now_s
        if event.cost_per_h is not None:
            fleet.cost_per_h[rows] = event.cost_per_h
            fleet.priced = fleet.priced or bool(event.cost_per_h.any())
        fleet.refresh_all(rows, now_s)

    def _hear(self, rows: Rows, now_s: float, effects: Effects) -> None:
        """A car taken for lost that beats again is offered, as its lot believes: its lot is to say hello anew."""
        fleet = self.fleet
        fleet.seen_s[rows] = now_s
        for lot_id in np.unique(fleet.lot[rows[~fleet.present[rows]]]).tolist():
            lot = fleet.lots.get(LotId(lot_id))
            if lot is not None and lot.connected and not lot.disconnecting:
                lot.disconnecting = True
                effects.send.append(Disconnect(LotId(lot_id)))

    def _drain(self, rows: Rows, now_s: float, effects: Effects) -> None:
        fleet = self.fleet
        here = rows[fleet.present[rows]]
        fleet.draining[here] = True
        fleet.refresh_all(here, now_s)
        for lot in np.unique(fleet.lot[here]).tolist():
            of_lot = here[fleet.lot[here] == lot]
            effects.send.append(Drain(LotId(lot), tuple(of_lot.tolist())))

    # Lots

    def _join(self, event: LotJoined, now_s: float, effects: Effects) -> None:
        fleet, known = self.fleet, self.fleet.lots.get(event.lot)
        if known is not None and known.incarnation == event.incarnation:
            known.connected, known.disconnecting = True, False
            self._broken.pop(event.lot, None)
            fleet.seen_s[known.rows] = now_s
            fleet.refresh_all(known.rows, now_s)
        else:
            if known is not None:
                self._die(event.lot, now_s, effects)
            self._acknowledged.pop(event.lot, None)
            fleet.join(event.lot, event.incarnation, event.node, event.profile, event.site, now_s)
        fleet.power_w[event.node] = event.power_w
        forgotten = {token for row in event.node.tolist() for token in self.held.get(row, ())}
        dropped: list[Token] = []
        for held in event.held:
            if held.token in forgotten:
                forgotten.discard(held.token)
            elif self._ledger.adopt(event.lot, held, now_s):
                fleet.present[held.node] = True  # it is here, though it offers nothing yet
            else:
                dropped.append(held.token)
        for token in forgotten:  # the grant never arrived
            lease = self.leases[token]
            self._ledger.end(lease, LeaseEnd.REFUSED, now_s)
        effects.send.append(Drop(event.lot, tuple(dropped)))  # the welcome: what is sent before it is void
        self._drain(event.node[fleet.draining[event.node]], now_s, effects)  # it may not have heard

    def _lose(self, lot_id: LotId, now_s: float) -> None:
        lot = self.fleet.lots[lot_id]
        lot.connected = False
        self._broken[lot_id] = now_s + self.settings.reconnect_grace_s
        self.fleet.refresh_all(lot.rows, now_s)

    def _die(self, lot_id: LotId, now_s: float, effects: Effects) -> None:
        """The process of a lot ended without a word: what it ran is suspect, and its vehicles are gone."""
        self._broken.pop(lot_id, None)
        leases = [
            lease for row in self.fleet.lots[lot_id].rows.tolist() for lease in self.held.get(row, {}).values()
        ]
        alone = [lease for lease in leases if lease.solo and lease.running & lease.undone]
        for lease in alone:
            self._count_death(lease, effects)
        for lease in leases:
            if not alone and not lease.solo:
                suspects = lease.undone if lease.interactive else lease.running & lease.undone
                for item in lease.items_of(suspects):
                    trouble = self.jobs[lease.job].trouble(item)
                    spared, trouble.spared = lease.spoke and not trouble.spared, True
                    trouble.solo, trouble.last_lot = trouble.solo or not spared, lease.lot
        self._leave_lot(lot_id, Cause.DIED, now_s, effects)

    def _count_death(self, lease: Lease, effects: Effects) -> None:
        """A process died while it ran the one item of this lease alone."""
        job, item = self.jobs[lease.job], lease.item(0)
        trouble = job.trouble(item)
        trouble.deaths += 1
        trouble.solo, trouble.last_lot, trouble.code = True, lease.lot, "node_died"
        before = f"; before that: {trouble.message}" if trouble.errors else ""
        if trouble.deaths >= self.settings.item_deaths:
            trouble.message = f"{trouble.deaths} processes died while running this item alone{before}"
            lease.failed |= 1
            job.lent -= 1
            self._fail_item(job, item, effects)

    def _left(self, event: NodesLeft, now_s: float, effects: Effects) -> None:
        for row, cause in zip(event.node.tolist(), event.cause.tolist(), strict=True):
            self._leave(row, Cause(cause), now_s, effects)

    def _leave_lot(self, lot_id: LotId, cause: Cause, now_s: float, effects: Effects) -> None:
        for row in self.fleet.lots[lot_id].rows.tolist():
            self._leave(row, cause, now_s, effects)

    def _leave(self, row: int, cause: Cause, now_s: float, effects: Effects) -> None:
        if not self.fleet.present[row]:
            return
        for lease in list(self.held.get(row, {}).values()):
            if lease.token not in self.leases:
                continue  # the one before was the last that its job waited for
            if cause in (Cause.DIED, Cause.SILENT) and (lease.running or lease.interactive):
                lost_s = min(now_s - lease.reported_s, lease.expected_s)
                self._ledger.meter(lease, 0.0, lost_s, 0.0, lost_s * float(self.fleet.power_w[row]))
            self._ledger.end(lease, _END_OF_CAUSE[cause], now_s)
            self._finish_if_settled(self.jobs[lease.job], now_s, effects)
        self.fleet.leave(row)
        if self._watch is not None:
            self._watch.left(row, cause, now_s)
        self.tally.departures[cause.name.lower(), self.fleet.profile_of(row)] += 1

    # Time

    def _expire(self, now_s: float, effects: Effects) -> None:
        for lot_id in [lot for lot, until_s in self._broken.items() if until_s <= now_s]:
            self._die(lot_id, now_s, effects)
        for lease in self._ledger.run_out(now_s):
            effects.send.append(Revoke(lease.lot, lease.token, "expired"))
            self._ledger.end(lease, LeaseEnd.EXPIRED, now_s)
        while self._deadlines and self._deadlines[0][0] <= now_s:
            self._pass_deadline(heappop(self._deadlines)[1], now_s, effects)
        if now_s >= self._silence_check_s + _SILENCE_CHECK_S:
            self._silence_check_s = now_s
            self._end_silent(now_s, effects)

    def _pass_deadline(self, job_id: JobId, now_s: float, effects: Effects) -> None:
        job = self.jobs.get(job_id)
        if job is None or job.ended is not None:
            return
        goes_on_until_s = job.heard_s + self.settings.interactive_timeout_s
        if job.spec.interactive and job.spec.deadline_s == inf and goes_on_until_s > now_s:
            heappush(self._deadlines, (goes_on_until_s, job_id))
            return
        self.tally.deadlines_missed[job.spec.label] += 1
        if job.spec.interactive:
            self._end_job(job, Outcome.EXPIRED, "expired", now_s, effects)
        else:
            self._hindsight.settle(job, now_s)
            self._queues.rerank(job, Band.LATE, -job.density)

    def _end_silent(self, now_s: float, effects: Effects) -> None:
        silent = self.fleet.silent(now_s)
        if not len(silent):
            return
        for row in silent.tolist():
            self._leave(row, Cause.SILENT, now_s, effects)
        for lot_id in np.unique(self.fleet.lot[silent]).tolist():
            lot = self.fleet.lots[LotId(lot_id)]
            if lot.connected and not lot.disconnecting and not self.fleet.present[lot.rows].any():
                lot.disconnecting = True
                effects.send.append(Disconnect(LotId(lot_id)))

    # Jobs

    def _finish_if_settled(self, job: Job, now_s: float, effects: Effects) -> None:
        if job.ended is None and job.settled == job.spec.items:
            self._end_job(job, Outcome.DONE, "cancelled", now_s, effects)

    def _end_job(self, job: Job, outcome: Outcome, cause: str, now_s: float, effects: Effects) -> None:
        job.ended = outcome  # what comes back is not to be placed again
        timed = job.spec.deadline_s < inf and not job.spec.interactive
        if timed and outcome is Outcome.DONE and job.band is not Band.LATE:  # what is late is settled
            self._hindsight.settle(job, now_s)
        for lease in list(job.leases.values()):
            effects.send.append(Revoke(lease.lot, lease.token, cause))
            self._ledger.end(lease, LeaseEnd.REVOKED, now_s)
        label = "failed" if outcome is Outcome.DONE and job.failed == job.spec.items else outcome.value
        self.tally.jobs_finished[label, job.spec.model] += 1
        effects.record(job.spec.interactive, EndRecord(job.spec.job, outcome, job.busy_s))
        if job.spec.interactive:
            del self.jobs[job.spec.job]

    def _replay(self, record: Record, now_s: float) -> None:
        match record:
            case JobRecord(spec, age_s):
                self._sequence += 1
                self.jobs[spec.job] = Job(spec, self._sequence, now_s - age_s, ready=True)
                if spec.deadline_s < inf:
                    heappush(self._deadlines, (spec.deadline_s, spec.job))
            case ResultsRecord(job_id, _, ranges, _, accepted):
                for first, count in ranges_of(ranges, accepted):
                    self.jobs[job_id].open.remove(first, count)
                    self.jobs[job_id].done += count
            case FailureRecord(job_id, item, code, message):
                self.jobs[job_id].open.remove(item, 1)
                self.jobs[job_id].failed += 1
                trouble = self.jobs[job_id].trouble(item)
                trouble.code, trouble.message = code, message
            case EndRecord(job_id, outcome):
                self.jobs[job_id].ended = outcome
            case _:
                assert_never(record)
