"""Faults in whatever order Hypothesis thinks of, in a small world: no promise is broken, and all work ends."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from benchmarks.world.faults import FAULTS
from benchmarks.world.world import Plan, World


class Weather(RuleBasedStateMachine):
    """A world in which nothing goes wrong by itself."""

    world: World | None = None

    @initialize(seed=st.integers(0, 1000), sites=st.integers(1, 3), cars=st.integers(1, 2))
    def begin(self, seed: int, sites: int, cars: int) -> None:
        self.world = World(replace(Plan.of(seed), sites=sites, cars=cars, fault_rate=0.0))
        self.world.storm(100)

    @rule(kind=st.sampled_from(sorted(FAULTS)))
    def strike(self, kind: str) -> None:
        assert self.world is not None
        self.world.strike(kind)

    @rule(events=st.sampled_from((1, 5, 50, 300)))
    def go_on(self, events: int) -> None:
        assert self.world is not None
        self.world.storm(events)

    def teardown(self) -> None:
        """Once faults stop, all that was accepted ends."""
        if self.world is not None:
            self.world.peace()


TestWeather = Weather.TestCase
TestWeather.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
