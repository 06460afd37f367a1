"""A place where cars park: what stays while lot processes come and go, and drivers plug in and out."""

from random import Random

from benchmarks.world.cars import LotProcess
from benchmarks.world.clock import Clock, Process
from benchmarks.world.coordinator import Coordinator
from benchmarks.world.network import End, Network, Route
from benchmarks.world.trace import Trace
from benchmarks.world.transfers import Calls
from node.messages import ModelOffer


class Coordinators:
    """Whichever coordinator runs now, if any."""

    now: Coordinator | None = None


class Site:
    """One lot over all its processes."""

    def __init__(
        self,
        clock: Clock,
        generator: Random,
        network: Network,
        trace: Trace,
        coordinators: Coordinators,
        name: str,
        cars: int,
        models: list[ModelOffer],
    ) -> None:
        self.cars = cars
        self.plugged = set(range(cars))
        self.route = Route(10.0 ** generator.uniform(-3.5, -1.0))
        self.lot: LotProcess | None = None
        self._process = Process()
        self._clock, self._generator, self._network, self._trace = clock, generator, network, trace
        self._coordinators = coordinators
        self.name, self._models = name, models
        self.calls = Calls(clock, generator, trace, self.route, lambda: coordinators.now)
        self._start()
        self._estimate()

    def plug(self, cars: list[int]) -> None:
        """Drivers park these for a while."""
        self.plugged.update(cars)
        if self.lot is not None and cars:
            self.lot.plug(cars, self._window_s())

    def unplug(self, cars: list[int]) -> None:
        """Drivers take these."""
        self.plugged.difference_update(cars)
        if self.lot is not None:
            self.lot.unplug(cars)

    def mend(self) -> None:
        """All is well here: nothing is slow or cut off, and all cars are parked."""
        self.route.heal()
        self.calls.breaks = 0
        self.plugged.update(range(self.cars))
        if self.lot is not None:
            self.lot.accelerator.slowness = 1.0
            away = [car for car in range(self.cars) if not self.lot.lot.vehicles.serving[car]]
            if away:
                self.lot.plug(away, self._window_s())

    def _start(self) -> None:
        if self.lot is None:
            self.lot = LotProcess(
                self._clock,
                self._generator,
                self.name,
                self.cars,
                self._models,
                self._connect,
                self.calls,
                self._over,
            )
            if self.plugged:
                self.lot.plug(sorted(self.plugged), self._window_s())

    def _estimate(self) -> None:
        """Look from time to time how long the cars here are expected to stay."""
        self._clock.after(self._generator.choice((1.0, 20.0)), self._process, self._estimate)
        if self.lot is not None and self.plugged:
            self.lot.estimate(sorted(self.plugged), self._window_s())

    def _over(self) -> None:
        self.lot = None
        self._clock.after(self._generator.choice((0.1, 1.0, 10.0)), self._process, self._start)

    def _connect(self, process: Process) -> End | None:
        coordinator = self._coordinators.now
        if coordinator is None:
            return None
        near, far = self._network.connect(process, coordinator.process, self.route)
        coordinator.accept(far)
        return near

    def _window_s(self) -> float:
        return self._generator.choice((5.0, 60.0, 36_000.0))
