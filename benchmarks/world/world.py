"""One world: everything that follows from a seed. A storm of faults, then peace, in which all that was accepted
must end."""

from dataclasses import dataclass
from math import exp, log
from random import Random

from benchmarks.world.checks import Checks, hold
from benchmarks.world.clock import Clock, Process
from benchmarks.world.coordinator import Coordinator, Crashed
from benchmarks.world.disk import Disk
from benchmarks.world.faults import FAULTS, WEIGHTS
from benchmarks.world.network import Network
from benchmarks.world.site import Coordinators, Site
from benchmarks.world.tenants import Submission, Tenants
from benchmarks.world.trace import Trace
from coordinator.core.events import JobId
from coordinator.core.settings import SchedulingSettings
from node.messages import ModelOffer

_MODELS = ("embed", "classify")
_TENANTS = ("ada", "ben", "cleo")
STORM_EVENTS = 8_000
_PEACE_EVENTS = 60_000  # within these everything must have ended
_LOOK_EVENTS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What a world is like."""

    seed: int
    sites: int
    cars: int  # at each site
    kinds: tuple[str, ...]  # of faults
    fault_rate: float  # faults an event
    open_requests: int  # taken at a time
    settings: SchedulingSettings

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """The plan of this seed: now a gentle world, now a stormy one, each with some kinds of faults."""
        generator = Random(f"plan/{seed}")
        kinds = tuple(FAULTS)
        if generator.random() < 0.6:
            kinds = tuple(kind for kind in kinds if generator.random() < 0.5) or kinds
        heartbeat_s = generator.choice((0.5, 5.0))
        settings = SchedulingSettings(
            slice_target_s=generator.choice((0.1, 1.0)),
            slice_least_s=generator.choice((0.01, 0.05)),
            lease_least_s=generator.choice((1.0, 5.0, 30.0)),
            heartbeat_s=heartbeat_s,
            item_attempts=generator.choice((2, 3)),
            silent_after_s=2.4 * heartbeat_s,
            interactive_timeout_s=generator.choice((5.0, 60.0)),
            weights=tuple((name, generator.choice((0.5, 1.0, 3.0))) for name in _TENANTS[1:]),
        )
        sites, cars = generator.randint(1, 5), generator.choice((1, 1, 2, 4))
        if generator.random() < 0.02:
            sites, cars = 8, 10
        rate = exp(generator.uniform(log(1 / 30), log(1 / 4)))
        return cls(seed, sites, cars, kinds, rate, generator.choice((5, 1000)), settings)


class World:
    """Cars, a coordinator, tenants, a network and a disk."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.events = 0
        self.generator = Random(plan.seed)
        self.clock = Clock(1000.0)
        self.trace = Trace(self.clock)
        self.coordinators = Coordinators()
        self._began_s = self.clock.now_s
        self._process = Process()
        by_key: dict[str, Submission] = {}
        damaged: set[tuple[JobId, int]] = set()
        self.checks = Checks(by_key, damaged)
        self.disk = Disk(self.clock, self.generator, self.checks.recorded, damaged)
        self._boot()
        network = Network(self.clock, self.generator, self.trace)
        items_per_s = self.generator.choice((20.0, 200.0))
        models = [ModelOffer(name, "digest", "echo", items_per_s, 0.0, 8, 1 << 20) for name in _MODELS]
        self.sites = [
            Site(
                self.clock,
                self.generator,
                network,
                self.trace,
                self.coordinators,
                f"lot-{number}",
                plan.cars,
                models,
            )
            for number in range(plan.sites)
        ]
        every_s = self.generator.choice((0.1, 1.0))
        self.tenants = Tenants(
            self.clock, self.generator, _TENANTS, list(_MODELS), lambda: self.coordinators.now, by_key, every_s
        )

    @property
    def hours(self) -> float:
        """How long it has existed, simulated."""
        return (self.clock.now_s - self._began_s) / 3600.0

    def run(self, events: int = STORM_EVENTS) -> None:
        """A storm of so many events, then peace. Raises what is wrong, an AssertionError as a rule."""
        self.storm(events)
        self.peace()

    def storm(self, events: int) -> None:
        """Let so many events happen, and faults among them."""
        kinds = self.plan.kinds
        weights = [WEIGHTS.get(kind, 1) for kind in kinds]
        for _ in range(events):
            if self.generator.random() < self.plan.fault_rate:
                any(map(self.strike, self.generator.choices(kinds, weights, k=3)))
            self.step()

    def step(self) -> None:
        """Let one event happen."""
        self.events += 1
        try:
            self.clock.step()
        except Crashed:
            self.crash()

    def strike(self, kind: str) -> bool:
        """Let a fault of this kind strike; False where it cannot, or does later."""
        try:
            struck = FAULTS[kind](self, self.generator)
        except Crashed:
            self.crash()
            struck = True
        if struck:
            self.trace.count(kind)
        return struck

    def crash(self) -> None:
        """The coordinator's process ends; another one starts later."""
        coordinator, self.coordinators.now = self.coordinators.now, None
        if coordinator is not None:
            self._account(coordinator)
            coordinator.end()
            self.tenants.coordinator_ended()
            self.clock.after(self.generator.choice((0.01, 0.5, 5.0)), self._process, self._boot)

    def peace(self) -> None:
        """No more faults: what is broken is mended, and within reasonable time everything has ended."""
        self.tenants.quiet = True
        self.disk.commit_s, self.disk.fails, self.disk.room = 0.005, False, None
        if self.coordinators.now is not None:
            self.coordinators.now.fuse, self.coordinators.now.ends_after_put = None, False
            self.coordinators.now.uncordon()
        for _ in range(_PEACE_EVENTS // _LOOK_EVENTS):
            for site in self.sites:
                site.mend()
            for _ in range(_LOOK_EVENTS):
                self.step()
            self.tenants.sweep()
            if not self.tenants.waiting and self._everybody_is_here():
                break
        late = [(submission.key, submission.job) for submission in self.tenants.waiting.values()]
        hold(not late, f"the faults are over, and these jobs have not ended: {late}")
        hold(self._everybody_is_here(), "the faults are over, and a car that is plugged in gets no work")
        if self.coordinators.now is not None:
            self._account(self.coordinators.now)

    def _boot(self) -> None:
        self.coordinators.now = Coordinator(
            self.clock,
            self.generator,
            self.plan.settings,
            self.disk,
            self.checks,
            self.trace,
            self.plan.open_requests,
        )

    def _everybody_is_here(self) -> bool:
        """Whether the coordinator counts on every car that is plugged in and not being drained."""
        coordinator = self.coordinators.now
        if coordinator is None:
            return False
        for site in self.sites:
            if site.lot is None or not site.lot.link.open:
                return False
            if not coordinator.serves(site.name, site.lot.lot.vehicles.serving & ~site.lot.lot.vehicles.draining):
                return False
        return True

    def _account(self, coordinator: Coordinator) -> None:
        """Note which ways of recovering this coordinator went."""
        tally, reach = coordinator.scheduler.tally, self.trace.reach
        reach("two tenants wait for the same and share it", self.checks.fairness.stretches)
        for (end, _), leases in tally.leases.items():
            reach(f"lease ended: {end}", leases)
        for (cause, _), nodes in tally.departures.items():
            reach(f"node left: {cause}", nodes)
        for reason, results in tally.results_rejected.items():
            reach(f"result refused: {reason}", results)
        for (label, _, outcome), items in tally.items_finished.items():
            reach(f"{label} item {outcome}", items)
        for (outcome, _), jobs in tally.jobs_finished.items():
            reach(f"job ended: {outcome}", jobs)
