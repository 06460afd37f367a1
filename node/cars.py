"""The cars of a lot as time goes by: their days, charge and heat, and what their owners' terms make of them.

Seconds come in as parameters, the lot's own; the cars' clock runs `speed` times as fast. Knows neither the stream
nor the executor, and of leases only how many each car holds, and which ones to write down.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from node import plan, profile, site, storm
from node.battery import Battery
from node.config import LotConfig
from node.day import Day
from node.events import Event, PluggedIn, RefusalsSaid, Unplugged, WindowsEstimated
from node.facts import Facts
from node.guard import Guard, Reason
from node.kept import Kept
from node.lease import Lease
from node.lent import Lent
from node.messages import Vehicle, Ways
from node.terms import Terms
from node.vehicles import Looked, Nodes, Vehicles

ESTIMATE_EVERY_S = 600.0
"""Simulated seconds between two looks at how long the cars are expected to stay (assumed)."""
LEAST_ESTIMATE_S, MOST_ESTIMATE_S = 0.5, 60.0
"""The same in real seconds, at the least and at the most."""
LOOK_EVERY_S = 0.5
"""Real seconds between two looks at what the owners' terms make of the cars."""


class Cars:
    """N cars of one lot."""

    def __init__(
        self,
        config: LotConfig,
        kept: Kept | None,
        models: Sequence[str],
        lacking_bytes: int,
        now_s: float,
        now_unix_s: float,
        throttle: Callable[[Sequence[float]], None],
    ) -> None:
        """Cars that offer these models: those that were `kept`, or new ones, each of which has to fetch so many
        bytes first. `throttle` is told what heat leaves each of its speed."""
        self.config = config
        kinds = {name: profile.load(name) for name in set(config.profiles)}
        self._profiles = [kinds[name] for name in config.profiles]
        self.days = plan.assign(config.day, len(self._profiles))
        plans = plan.lived_together(self.days, config.starts_as or self.days[0])
        self._cohorts = tuple(one.cohort for one in plans)
        self._place = site.load(config.place).costing(config.price_per_kwh, config.carbon_g_per_kwh)
        self._throttle = throttle
        self._facts: Facts | None = None
        self._estimated_s = -np.inf
        self._began_s = self._told_s = now_s
        self._began_unix_s = now_unix_s
        if kept is None:
            count = len(self._profiles)
            self.day = Day(plans, count, config.first_index, config.seed, storm.parse(config.storms))
            battery = Battery(self._profiles, np.array([one.state_of_charge for one in plans]))
            ours = self._place.part(count, config.place_cars or count)
            terms = config.terms or (Terms(),) * count
            self.guard = Guard(self._profiles, battery, ours, terms, models, self.day.start_s, lacking_bytes)
            self._lent = Lent(self.day, config.speed)
        else:
            kept = deepcopy(kept)  # columns that came by Ray cannot be written to
            lasted_s = max(now_unix_s - kept.began_unix_s, kept.told_s)  # clocks of two machines differ
            self._began_unix_s = kept.began_unix_s
            self._began_s -= lasted_s
            self._told_s = self._began_s + kept.told_s
            self.day, self.guard = kept.day, kept.guard
            self.guard.offering(models)
            self._lent = Lent(self.day, config.speed)
            self._lent.declared_until_s = kept.declared_until_s

    def kept(self) -> Kept:
        """A copy of what the next process of this lot must know."""
        told_s = self._told_s - self._began_s
        return deepcopy(Kept(self._began_unix_s, told_s, self.day, self.guard, self._lent.declared_until_s))

    def rows(self) -> list[Vehicle]:
        """Each as the coordinator is told of it."""
        return [
            Vehicle(name, kind.name, kind.board_w or 0.0, self.config.site, kind.awake_w or 0.0)
            for name, kind in zip(self.config.names, self._profiles, strict=True)
        ]

    def ways(self) -> Ways:
        """By what they come and go."""
        return Ways(self._cohorts[0], self._clock_s(0.0), self.config.speed, cohorts=self._cohorts)

    def wait_s(self, now_s: float) -> float:
        """Real seconds until they are to be looked at again."""
        change_s = (self.day.next_change_s() - self._clock_s(now_s)) / self.config.speed
        return max(0.0, min(change_s, LOOK_EVERY_S))

    # Time

    def pass_time(self, now_s: float, vehicles: Vehicles) -> list[Event]:
        """Who left and who came up to now, how long they stay when that is due, and a look at them."""
        events, speed = self.move(now_s, vehicles), self.config.speed
        if now_s >= self._estimated_s + min(max(ESTIMATE_EVERY_S / speed, LEAST_ESTIMATE_S), MOST_ESTIMATE_S):
            self._estimated_s = now_s
            here = np.flatnonzero(self._lent.cars)
            events.append(WindowsEstimated(here, self.day.remaining_s(here, self._clock_s(now_s)) / speed))
        return [*events, self.look(now_s)]

    def move(self, now_s: float, vehicles: Vehicles) -> list[Event]:
        """Cars and their surroundings up to now; who left and who came."""
        seconds, self._told_s = (now_s - self._told_s) * self.config.speed, now_s
        clock_s, day, guard = self._clock_s(now_s), self.day, self.guard
        there = day.plugged | day.parked
        guard.pass_time(clock_s, seconds, day.plugged, day.parked, vehicles.leases > 0)
        guard.moved(clock_s, vehicles.take_moved(), self._elsewhere())
        fetched = guard.fetch(clock_s, seconds, there, vehicles.window_s(now_s) * self.config.speed)
        if self._facts is not None:
            self._facts.fetched(fetched, guard.fetches.left_bytes, clock_s, self._real_s(now_s))
        changes = day.advance(clock_s)
        guard.battery.arrive(changes.travelled, changes.used_kwh)
        return self._lent.follow(guard.terms, clock_s, changes)

    def look(self, now_s: float) -> Looked:
        """What the owners' terms make of the cars now."""
        clock_s, guard = self._clock_s(now_s), self.guard
        plugged, parked, elsewhere = self.day.plugged, self.day.parked, self._elsewhere()
        declared_s = self._lent.declared_until_s - clock_s
        guard.look(clock_s, 2.0 * LOOK_EVERY_S * self.config.speed, plugged, parked, declared_s, elsewhere)
        if self._facts is not None:
            since_s = clock_s - self.day.age_s(np.arange(len(plugged)), clock_s)
            self._facts.states(guard, plugged, parked, since_s, clock_s, self._real_s(now_s), elsewhere)
        price = guard.place.at(guard.place.price_per_kwh, clock_s)
        carbon = guard.place.at(guard.place.carbon_g_per_kwh, clock_s)
        left = guard.heat.speed()
        self._throttle(left.tolist())
        return Looked(guard.reason != Reason.NONE, left, guard.wake_j(clock_s), price, carbon)

    # What hands and owners do

    def plug(self, nodes: Nodes, window_s: float | None, now_s: float) -> PluggedIn:
        """These are plugged in [K], for so many real seconds or until they are taken."""
        clock_s, stay_s = self._clock_s(now_s), None if window_s is None else window_s * self.config.speed
        self.day.plug(nodes, clock_s, stay_s)
        return self._lent.plug(nodes, clock_s, stay_s)

    def unplug(self, nodes: Nodes, now_s: float) -> Unplugged:
        """These are taken [K]."""
        self.day.unplug(nodes, self._clock_s(now_s))
        return self._lent.unplug(nodes)

    def say(self, nodes: Sequence[int], said: Sequence[Terms], now_s: float) -> list[Event]:
        """The owners of these say so from now on."""
        self.guard.tell(self.guard.terms.with_rows(nodes, said))
        if self._facts is not None:
            for node, terms in zip(nodes, said, strict=True):
                self._facts.terms(node, terms, self._clock_s(now_s), self._real_s(now_s))
        return [*self.lend(now_s), self.refusals()]

    def lend(self, now_s: float) -> list[Event]:
        """Who is lent now and was not, as last told, and who is lent no more."""
        return self._lent.follow(self.guard.terms, self._clock_s(now_s))

    def refusals(self) -> RefusalsSaid:
        """Whose work, and which models, each owner refuses."""
        rows = self.guard.terms.rows
        models = [frozenset(row.refused_models) for row in rows]
        return RefusalsSaid(models, [frozenset(row.refused_tenants) for row in rows])

    # What is written of them

    def write(self, facts: Facts, now_s: float) -> None:
        """Write facts from now on."""
        self._facts = facts
        facts.cars(
            self._profiles,
            self.guard,
            self.config.site,
            self._place.limit_kw,
            self._clock_s(now_s),
            self._real_s(now_s),
        )

    def write_leases(self, facts: Facts, began: Sequence[Lease], ended: Sequence[Lease], now_s: float) -> None:
        """Write which leases began and which ended."""
        for lease in began:
            facts.began(lease, self._clock_s(now_s), self._real_s(now_s))
        for lease in ended:
            facts.ended(lease, self._clock_s(now_s), self._real_s(now_s))

    def _elsewhere(self) -> NDArray[np.bool_]:
        """Who is not at the lot's place [N]."""
        return ~self.day.plugged & ~(self.day.parked & self.day.by_charger)

    def _clock_s(self, now_s: float) -> float:
        """What the cars' clock shows, since Monday 00:00."""
        return self.day.start_s + (now_s - self._began_s) * self.config.speed

    def _real_s(self, now_s: float) -> float:
        return now_s - self._began_s
