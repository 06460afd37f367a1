"""One boot of a coordinator: the real core, wire and `perform`, driven as the runtime drives them, on virtual time.

What the runtime, its links and its services do without deciding anything is here once more, in a few lines: hand
facts over in turns, keep payloads by serial, put a lot's first order first. `fuse` ends it in the middle of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from random import Random

import numpy as np
from numpy.typing import NDArray

from benchmarks.world.checks import Checks, hold
from benchmarks.world.clock import Clock, Process, Timer
from benchmarks.world.disk import Disk, now
from benchmarks.world.network import End
from benchmarks.world.tenants import Submission
from benchmarks.world.trace import Trace
from coordinator import cohorts
from coordinator.core.effects import (
    Acknowledge,
    Disconnect,
    Drop,
    Effects,
    EndRecord,
    Grant,
    JobRecord,
    Order,
    Record,
    ResultsRecord,
    Revoke,
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
    LotJoined,
    LotLeft,
    LotLost,
    NodesCordoned,
    NodesDrained,
    Progressed,
    Report,
    Token,
)
from coordinator.core.forecast import Forecast
from coordinator.core.ranges import Range
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from coordinator.items import Items
from coordinator.perform import perform
from coordinator.refusal import Refusal, Refused
from coordinator.roster import Roster
from coordinator.staging import Staging
from coordinator.store import Corrupt, Full, Intake, Operation, accepted_payloads
from coordinator.store import Submission as Stored
from coordinator.wire import Outgoing, Terms, facts, joined, payloads, response
from node import messages as node
from protos import link_pb2

_TURN_S = 0.002
_COHORTS = cohorts.load()
_FIRST_REQUEST = 1 << 62


class Crashed(Exception):
    """The coordinator's process ends here."""


@dataclass(slots=True, eq=False)
class _Line:
    """A lot's open stream. The first order is the answer to its hello; what was decided before is void."""

    joined: LotJoined
    end: End
    welcomed: bool = False


class Coordinator:
    """From one start to its end."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        settings: SchedulingSettings,
        disk: Disk,
        checks: Checks,
        trace: Trace,
        open_requests: int,
    ) -> None:
        """It takes so many requests at a time."""
        self.process = Process()
        lost, unheard = disk.boot(self.process)
        trace.reach("a crash before what was handed in is recorded", lost > 0)
        trace.reach("a crash before what is recorded is told", unheard > 0)
        forecast = Forecast(_COHORTS)
        self.scheduler = Scheduler.restore(settings, disk.epoch, disk.live(), clock.now_s, forecast)
        self.roster = Roster()
        self.fuse: int | None = None  # so many saves, sends and answers until it burns
        self.ends_after_put = False  # soon after the next large result is put
        self._clock, self._generator, self._disk, self._checks, self._trace = clock, generator, disk, checks, trace
        self._open_requests = open_requests
        self._terms = Terms(disk.epoch, settings.heartbeat_s, settings.silent_after_s, forecast.cohorts)
        self._job_numbers = count(disk.newest_job + 1)
        self._request_numbers = count(_FIRST_REQUEST + (disk.epoch << 40))
        self._serial = 1
        self._events: list[Event] = []
        self._turn_is_due = False
        self._timer: tuple[float, Timer] | None = None
        self._ends: list[End] = []  # that lots opened and nobody closed
        self._lines: dict[LotId, _Line] = {}
        self._staging = Staging(self.scheduler.leases)
        self._payloads: dict[int, Sequence[bytes]] = {}  # by serial, until the turn is over
        self._submissions: dict[JobId, tuple[Submission, Stored]] = {}  # not yet recorded
        self._claims: dict[str, list[tuple[Submission, Intake]]] = {}  # keys of those, and who else names them
        self._requests: dict[JobId, Submission] = {}
        self._needed: dict[int, int] = {}  # operations to be durable before an acknowledgement, by its id()
        self._acknowledged: dict[LotId, int] = {}
        checks.booted(self.scheduler, disk.live())
        self._set_timer()

    # Tenants

    def submit(self, submission: Submission) -> bool:
        """A tenant hands in a job or a request, perhaps not for the first time; False: there is no room for it."""
        inputs = [item.payload for item in submission.items]
        if submission.interactive:
            return self._ask(submission, inputs)
        try:
            intake = self._disk.intake(JobId(next(self._job_numbers)), submission.model)
            half = len(inputs) // 2
            for part in (inputs[:half], inputs[half:]):
                self._disk.take_in(intake, Items.of(part))
        except Full:
            self._trace.count("full disk")
            if submission.key not in self._claims:
                self._checks.refused(submission, self.scheduler)
            return False
        submission.refused = False
        self._claim(submission, intake)
        return True

    def _ask(self, submission: Submission, inputs: Sequence[bytes]) -> bool:
        if len(self._requests) >= self._open_requests:
            self._trace.count("overload")
            return False
        job, items = JobId(next(self._request_numbers)), len(inputs)
        deadline_s = inf if submission.timeout_s is None else self._clock.now_s + submission.timeout_s
        mean = sum(map(len, inputs)) // items
        self._requests[job] = submission
        self._trace.reach("a request is taken that was refused before", submission.refused)
        submission.job = job
        spec = JobSpec(
            job, submission.tenant, "world", submission.model, items, mean, True, deadline_s, float(items)
        )
        self.post(JobsSubmitted((spec,)))
        return True

    def _claim(self, submission: Submission, intake: Intake) -> None:
        """Find the job that its key names, or take it in; whoever else claims the key waits for the record."""
        tenant, key = submission.tenant, submission.key
        others = self._claims.get(key)
        if others is not None:
            self._trace.count("concurrent claim")
            others.append((submission, intake))
            return
        known = now(self._disk.find(tenant, key))
        if known is not None:
            self._trace.reach("a job found by its key")
            self._checks.claimed(submission, known.spec.job, known.digest == intake.digest)
            if known.digest == intake.digest:
                submission.job, submission.outcome = known.spec.job, known.outcome
            return
        self._claims[key] = []
        items, mean = intake.items, intake.bytes // intake.items
        spec = JobSpec(intake.job, tenant, "world", submission.model, items, mean, False, inf, float(items), key)
        self._submissions[spec.job] = (submission, Stored(spec, intake))
        self.post(JobsSubmitted((spec,)))

    def cancel(self, job: JobId) -> None:
        """Nobody wants this job any more."""
        self.post(JobsCancelled((job,)))

    # Operators

    def cordon(self, cordoned: bool) -> bool:
        """Give a vehicle no new work, or give it work again; False when none is known."""
        names = self.roster.names
        if names:
            self.post(NodesCordoned(self.roster.find([self._generator.choice(names)]), cordoned))
        return bool(names)

    def uncordon(self) -> None:
        """Give all vehicles work again."""
        self.post(NodesCordoned(self.roster.find(self.roster.names), False))

    def drain(self) -> bool:
        """Let a vehicle finish what it holds and then leave; False when none is known."""
        names = self.roster.names
        if names:
            self.post(NodesDrained(self.roster.find([self._generator.choice(names)])))
        return bool(names)

    def ask_to_yield(self) -> bool:
        """Have a lot give a lease back at the next boundary; False when there is none."""
        leases = list(self.scheduler.leases.values())
        if leases:
            lease = self._generator.choice(leases)
            self.send(Revoke(lease.lot, lease.token, "yield"))
        return bool(leases)

    def serves(self, lot_name: str, cars: NDArray[np.bool_]) -> bool:
        """Whether these cars of a lot take new work, as far as is known here."""
        if lot_name not in self.roster.lot_names:
            return False
        lot = self.scheduler.fleet.lots[LotId(self.roster.lot_names.index(lot_name))]
        return all(map(self.scheduler.fleet.serves, lot.rows[cars].tolist()))

    # Lots

    def accept(self, end: End) -> None:
        """A lot opened a stream."""
        self._ends = [older for older in self._ends if older.open] + [end]
        end.receive = partial(self._welcome, end)
        end.ended = lambda: None

    def _welcome(self, end: End, message: bytes) -> None:
        request = link_pb2.ConnectRequest.FromString(message)
        hello = request.hello
        lot, rows = self.roster.enter(hello.lot_id, [vehicle.name for vehicle in hello.vehicles])
        line = _Line(joined(hello, lot, rows), end)
        older = self._lines.get(lot)
        if older is not None:  # it may have something to say still
            self._clock.after(self._generator.choice((0.01, 0.5, 0.5)), self.process, older.end.close)
        self._lines[lot] = line
        end.receive, end.ended = partial(self._receive, line), partial(self._leave, line, False)
        self.post(line.joined)

    def _receive(self, line: _Line, message: bytes) -> None:
        request = link_pb2.ConnectRequest.FromString(message)
        if self._lines.get(line.joined.lot) is not line:
            self._trace.count("reordering")
        first, named = self._serial, sum(len(row.results) for row in request.reports)
        for results in payloads(request, self._staging.take):
            self._payloads[self._serial] = list(results)
            self._serial += 1
        kept = sum(len(row.results) for row in request.reports)
        self._trace.reach("a result is struck that was put to a coordinator before", named - kept)
        self.post(*facts(request, line.joined, first, self._clock.now_s, self._terms))
        if request.HasField("goodbye"):
            line.end.close()
            self._leave(line, True)

    # Large payloads

    def fetch(self, token: node.Token, items: Sequence[int]) -> Sequence[bytes]:
        """Inputs of a live lease by their offsets in it; refused when it is not live."""
        lease = self.scheduler.leases.get(Token(token.epoch, token.attempt))
        if lease is None:
            raise Refused(Refusal.NOT_FOUND, f"lease {token} is not live")
        self._trace.reach("inputs are fetched beside the stream")
        try:
            return self._inputs(lease.job, [(lease.item(item), 1) for item in items])
        except Corrupt as corrupt:
            raise Refused(Refusal.DAMAGED, str(corrupt)) from None

    def put(self, token: node.Token, item: int, payload: bytes) -> None:
        """A result comes ahead of its report; refused when its lease is not live."""
        self._staging.put(Token(token.epoch, token.attempt), item, payload)
        self._trace.reach("a result is put ahead of its report")
        if self.ends_after_put:
            self._clock.after(self._generator.random() * 0.2, self.process, self._end_after_put)

    def _end_after_put(self) -> None:
        self._trace.count("crash")
        raise Crashed

    def _leave(self, line: _Line, goodbye: bool) -> None:
        if self._lines.get(line.joined.lot) is line:
            del self._lines[line.joined.lot]
            self.post(LotLeft(line.joined.lot) if goodbye else LotLost(line.joined.lot))

    def _close(self, line: _Line) -> None:
        line.end.close()
        self._leave(line, False)

    # The loop

    def post(self, *events: Event) -> None:
        """Hand facts to the core: at once, or together with those that come after."""
        self._events.extend(events)
        if self._turn_is_due:
            return
        self._turn_is_due = True
        if self._generator.random() < 0.5:
            self._turn()
        else:
            self._clock.after(self._generator.random() * _TURN_S, self.process, self._turn)

    def end(self) -> None:
        """The process ends: the kernel closes all its streams, nothing else is said."""
        self.process.ended = True
        for end in self._ends:
            end.close()

    def _turn(self) -> None:
        events, self._events = self._events, []
        now_s = self._clock.now_s
        effects = self.scheduler.handle(events, now_s)
        self._checks.stepped(self.scheduler, effects, now_s)
        needed = self._disk.handed_in + len(effects.save)
        self._reach(events, effects)
        self._needed.update((id(order), needed) for order in effects.acknowledge)
        perform(effects, self._disk, self)
        self._payloads.clear()
        self._set_timer()
        self._turn_is_due = bool(self._events)
        if self._turn_is_due:
            self._clock.after(0.0, self.process, self._turn)

    def _set_timer(self) -> None:
        wakeup_s = self.scheduler.next_wakeup_s()
        if wakeup_s is None:
            return
        if self._timer is not None:
            due_s, timer = self._timer
            if due_s <= wakeup_s:
                return
            timer.cancel()
        self._timer = (wakeup_s, self._clock.at(wakeup_s, self.process, self._wake))

    def _wake(self) -> None:
        self._timer = None
        self.post()

    # What `perform` asks for

    def operation(self, record: Record) -> Operation:
        """A record with the bytes that belong to it."""
        self._burn()
        match record:
            case JobRecord(spec):
                return Operation(record, submission=self._submissions[spec.job][1])
            case ResultsRecord():
                return Operation(record, payloads=self._payloads[record.serial])
            case _:
                return Operation(record)

    def send(self, order: Order | Acknowledge) -> None:
        """Hand an order to a lot."""
        self._burn()
        line = self._lines.get(order.lot)
        inputs: Sequence[bytes] = ()
        match order:
            case Grant():
                self._checks.granted(order)
                self._trace.reach("a suspect runs alone", order.solo)
                try:
                    inputs = self._inputs(order.job, order.ranges)
                except Corrupt:
                    if line is not None:
                        self._clock.after(self._generator.random() * 0.01, self.process, partial(self._void, order))
                    return
            case Acknowledge():
                hold(
                    self._disk.durable >= self._needed.pop(id(order)),
                    f"acknowledged before it is recorded: {order}",
                )
            case Disconnect():
                self._trace.reach("a silent lot is cut off")
            case Drop(_, tokens):
                self._trace.reach("a lot drops leases that are others' by now", len(tokens) > 0)
            case _:
                pass
        if line is None:
            return
        if isinstance(order, Disconnect):
            self._clock.after(0.0, self.process, partial(self._close, line))
            return
        line.welcomed = line.welcomed or isinstance(order, Drop)
        if line.welcomed:
            message = response([Outgoing(order, inputs)], self.roster.index, self._terms)
            line.end.write(message.SerializeToString(deterministic=True))

    def _void(self, grant: Grant) -> None:
        """End a lease that no lot heard of: items whose inputs are damaged fail, the others wait for another."""
        self._trace.reach("a grant is void whose inputs are damaged")
        items = [item for first, count in grant.ranges for item in range(first, first + count)]
        errors = tuple(
            (offset, "bad_input", "it is damaged")
            for offset, item in enumerate(items)
            if (grant.job, item) in self._disk.damaged
        )
        self.post(Progressed(grant.lot, 0, (Report(grant.token, 0, errors=errors, ended=LeaseEnd.REFUSED),)))

    def answer(self, record: Record) -> None:
        """Tell whoever waits."""
        self._burn()
        job = record.spec.job if isinstance(record, JobRecord) else record.job
        request = self._requests.get(job)
        if request is not None:
            payloads: Sequence[bytes] = ()
            if isinstance(record, ResultsRecord):
                payloads = accepted_payloads(record, self._payloads[record.serial])
            self._checks.answered(request, record, payloads)
            if isinstance(record, EndRecord):
                del self._requests[job]
            return
        self._checks.told(record)
        if isinstance(record, JobRecord):
            submission = self._submissions.pop(job)[0]
            submission.job = job
            self.post(JobsSaved((job,)))
            for other, intake in self._claims.pop(submission.key):
                self._trace.reach("a claim of a key waits for the first")
                self._claim(other, intake)
        elif isinstance(record, ResultsRecord):
            self._trace.reach("work goes on while the disk is full", self._disk.room == 0)
        elif isinstance(record, EndRecord):
            self.post(JobsClosed((job,)))
            self._checks.submission(job).outcome = record.outcome

    def fail(self, records: list[Record], error: Exception) -> None:
        """The store failed: the coordinator stops."""
        raise Crashed

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self._trace.count("crash between save, send and answer")
                raise Crashed

    def _reach(self, events: Sequence[Event], effects: Effects) -> None:
        """Note ways of recovering that no count of the core tells."""
        for event in events:
            if isinstance(event, LotJoined):
                rows = event.node.tolist()
                held = [token for row in rows for token in self.scheduler.held.get(row, ())]
                foreign = sum(token.epoch != self.scheduler.epoch for token in held)
                self._trace.reach("a lease is taken over by a coordinator that did not grant it", foreign)
        sequences = [(order.lot, order.sequence) for order in effects.acknowledge]
        for lot, sequence in sequences:
            if sequence <= self._acknowledged.get(lot, 0):
                self._trace.reach("a message sent again is ignored")
            self._acknowledged[lot] = sequence

    def _inputs(self, job: JobId, ranges: Sequence[Range]) -> Sequence[bytes]:
        request = self._requests.get(job)
        if request is None:
            return now(self._disk.inputs(job, ranges))
        return [request.items[item].payload for first, count in ranges for item in range(first, first + count)]
