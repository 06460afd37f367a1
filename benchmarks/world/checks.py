"""What must hold whatever happens, seen from outside: by tenants, on the disk, and over restarts."""

from collections import Counter
from collections.abc import Container, Iterable
from typing import assert_never

from benchmarks.world.fairness import Fairness
from benchmarks.world.items import Item, Nature
from benchmarks.world.tenants import Submission
from coordinator.core.effects import (
    Effects,
    EndRecord,
    FailureRecord,
    Grant,
    JobRecord,
    Outcome,
    Record,
    ResultsRecord,
)
from coordinator.core.events import JobId, Token
from coordinator.core.job import Job
from coordinator.core.lease import ranges_of
from coordinator.core.scheduler import Scheduler
from coordinator.store import Operation, accepted_payloads

_SAMPLED_FROM = 50  # nodes: larger worlds are validated now and then
_SAMPLE = 16

_CODES = {
    Nature.SOUND: set[str](),
    Nature.BAD: {"bad_input"},
    Nature.FAILS: {"model"},
    Nature.FLAKY: {"model"},
    Nature.KILLS: {"node_died"},
}


class Violated(AssertionError):
    """A promise was broken."""


class Checks:
    """Compares what is told, recorded and kept in mind."""

    def __init__(self, submissions: dict[str, Submission], damaged: Container[tuple[JobId, int]]) -> None:
        """`submissions` by key; `damaged` are items whose inputs are."""
        self._damaged = damaged
        self._submissions = submissions
        self._jobs: dict[JobId, Submission] = {}  # recorded
        self._settled: dict[JobId, set[int]] = {}  # recorded
        self._ended: dict[JobId, Outcome] = {}  # recorded
        self._tokens: set[Token] = set()  # ever granted
        self._alone: Counter[tuple[JobId, int]] = Counter()  # solo grants of an item
        self._journal: dict[JobId, list[Record]] = {}  # what the core has saved, durable or not
        self._steps = 0
        self.fairness = Fairness(())  # of the coordinator that runs now

    # On the disk

    def recorded(self, operation: Operation) -> None:
        """This is durable now."""
        match operation.record:
            case JobRecord(spec):
                hold(spec.job not in self._jobs, "a job is recorded once")
                submission = self._submissions[spec.key]
                hold(not submission.refused, f"{spec.key} was refused and is recorded")
                hold(submission not in self._jobs.values(), f"{spec.key} names one job")
                self._jobs[spec.job], self._settled[spec.job] = submission, set()
            case ResultsRecord(job) as record:
                payloads = accepted_payloads(record, operation.payloads)
                hold(len(payloads) == record.accepted.bit_count(), f"job {job}: a payload for each result")
                for item, payload in zip(_items(record), payloads, strict=True):
                    self._settle(job, item)
                    check_result(self._jobs[job].items[item], payload)
            case FailureRecord(job, item, code):
                self._settle(job, item)
                self._check_failure(job, self._jobs[job].items[item], code)
            case EndRecord(job, outcome):
                hold(job not in self._ended, f"job {job} ends once")
                self._ended[job] = outcome
                self._check_end(job, outcome, self._jobs[job], len(self._settled[job]))

    def _settle(self, job: JobId, item: int) -> None:
        hold(job not in self._ended, f"job {job} has ended, and item {item} is settled after that")
        hold(item not in self._settled[job], f"job {job}: item {item} has at most one accepted result")
        self._settled[job].add(item)

    # Told

    def told(self, record: Record) -> None:
        """Someone is told this of a batch job: a restart must not forget it."""
        match record:
            case JobRecord(spec):
                known = spec.job in self._jobs
            case ResultsRecord(job):
                known = self._settled.get(job, set()).issuperset(_items(record))
            case FailureRecord(job, item):
                known = item in self._settled.get(job, ())
            case EndRecord(job):
                known = job in self._ended
            case _:
                assert_never(record)
        hold(known, f"told before it is recorded: {record}")

    def refused(self, submission: Submission, scheduler: Scheduler) -> None:
        """There is no room for this submission: nothing of it is kept."""
        submission.refused = True
        kept = any(job.spec.key == submission.key for job in scheduler.jobs.values() if job.spec.key)
        hold(not kept or submission in self._jobs.values(), f"{submission.key} is refused and kept")

    def claimed(self, submission: Submission, job: JobId, alike: bool) -> None:
        """A key names this job already; what is handed in under it is alike or not."""
        first = self._jobs[job]
        hold(first.key == submission.key, f"{submission.key} finds a job of {first.key}")
        hold(
            alike == (first.items == submission.items), f"{submission.key}: content is not told from other content"
        )

    def granted(self, grant: Grant) -> None:
        """A lot is lent this."""
        hold(grant.token not in self._tokens, f"token {grant.token} names one lease for ever")
        self._tokens.add(grant.token)
        if not grant.interactive:
            hold(grant.job in self._jobs, f"job {grant.job} is granted and would not survive a restart")
            settled = self._settled[grant.job]
            for first, count in grant.ranges:
                hold(settled.isdisjoint(range(first, first + count)), f"job {grant.job}: a settled item is lent")
        if grant.solo:
            self._alone[grant.job, grant.ranges[0][0]] += 1

    def answered(self, submission: Submission, record: Record, payloads: Iterable[bytes]) -> None:
        """News of a request, for whoever waits for it."""
        hold(submission.outcome is None, f"request {submission.job} is answered once")
        match record:
            case ResultsRecord():
                for item, payload in zip(_items(record), payloads, strict=True):
                    hold(item not in submission.answers, f"item {item} of a request has at most one result")
                    check_result(submission.items[item], payload)
                    submission.answers[item] = payload
            case FailureRecord(job, item, code):
                hold(item not in submission.answers, f"item {item} of a request has at most one result")
                self._check_failure(job, submission.items[item], code)
                submission.answers[item] = code
            case EndRecord(job, outcome):
                self._check_end(job, outcome, submission, len(submission.answers))
                submission.outcome = outcome

    def _check_failure(self, job: JobId, item: Item, code: str) -> None:
        # A process that dies, or that is away for too long, may cost a sound item that it ran alone.
        allowed = {"node_died"} if self._alone[job, item.index] >= 2 else set[str]()
        allowed |= _CODES[item.nature]
        if (job, item.index) in self._damaged:
            allowed.add("bad_input")
        hold(code in allowed, f"job {job}: {item} failed with {code!r}")

    def _check_end(self, job: JobId, outcome: Outcome, submission: Submission, settled: int) -> None:
        match outcome:
            case Outcome.DONE:
                hold(settled == len(submission.items), f"job {job} is done with {settled} items settled")
            case Outcome.CANCELLED:
                hold(submission.cancelled, f"job {job} is cancelled, and nobody asked for it")
            case Outcome.EXPIRED:
                hold(submission.interactive, f"job {job} expired and is no request")

    # In mind

    def booted(self, scheduler: Scheduler, live: Iterable[Record]) -> None:
        """A coordinator starts with this."""
        self._journal, self.fairness = {}, Fairness(scheduler.settings.weights)
        for record in live:
            self._note(record)
        scheduler.validate()
        for job, outcome in self._ended.items():
            self._jobs[job].outcome = outcome  # whoever asks is told
        for job in self._jobs.keys() - self._ended.keys():
            hold(job in scheduler.jobs, f"job {job} was accepted and is forgotten")
            hold(scheduler.jobs[job].settled == len(self._settled[job]), f"job {job} lost what was settled of it")

    def stepped(self, scheduler: Scheduler, effects: Effects, now_s: float) -> None:
        """The core has taken a step."""
        self._steps += 1
        unfair = self.fairness.stepped(scheduler, effects)
        hold(not unfair, unfair)
        touched = dict.fromkeys(map(self._note, effects.save))
        if scheduler.fleet.size <= _SAMPLED_FROM or self._steps % _SAMPLE == 0:
            scheduler.validate()
        for lease in scheduler.leases.values():
            hold(lease.expires_s > now_s, f"lease {lease.token} has run out and is live")
        for job_id in touched:
            records = self._journal[job_id]
            again = Scheduler.restore(scheduler.settings, scheduler.epoch, records, now_s).jobs[job_id]
            _check_equal(scheduler.jobs[job_id], again)
            if again.ended is not None:
                del self._journal[job_id]

    def _note(self, record: Record) -> JobId:
        job = record.spec.job if isinstance(record, JobRecord) else record.job
        self._journal.setdefault(job, []).append(record)
        return job

    # In the end

    def submission(self, job: JobId) -> Submission:
        """Whose job this is."""
        return self._jobs[job]


def check_result(item: Item, payload: bytes) -> None:
    """Raises Violated unless this is the answer to the item."""
    hold(item.nature in (Nature.SOUND, Nature.FLAKY), f"{item} has a result")
    hold(payload == item.result, f"{item} has the result {payload!r}")


def _check_equal(job: Job, again: Job) -> None:
    """Raises Violated unless a job is what its records say, but for who runs it."""
    open_items = {item for first, count in job.open for item in range(first, first + count)}
    open_items |= job.waiting.keys()
    for lease in job.leases.values():
        open_items.update(lease.items_of(lease.undone))
    restored = {item for first, count in again.open for item in range(first, first + count)}
    name = f"job {job.spec.job}"
    hold(open_items == restored, f"{name}: {sorted(open_items ^ restored)} differ from what is saved")
    hold((job.done, job.failed) == (again.done, again.failed), f"{name}: counts differ from what is saved")
    hold(job.ended is again.ended, f"{name} ended as {job.ended}, and {again.ended} is saved")


def _items(record: ResultsRecord) -> list[int]:
    ranges = ranges_of(record.ranges, record.accepted)
    return [item for first, count in ranges for item in range(first, first + count)]


def hold(holds: bool, promise: str) -> None:
    if not holds:
        raise Violated(promise)
