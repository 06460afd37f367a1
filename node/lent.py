"""Which cars of a lot are lent: those on their chargers, and parked ones whose owners lend them so.

Pure; seconds are simulated. Whether a car that is lent may work now is `guard`'s business.
"""

import numpy as np
from numpy.typing import NDArray

from node.day import Changes, Day
from node.events import Event, PluggedIn, Unplugged
from node.terms import Columns
from node.vehicles import Nodes


class Lent:
    """N cars with their days."""

    def __init__(self, day: Day, speed: float) -> None:
        """The lot's clock is so much slower than the cars'. Nobody is lent yet."""
        self._day, self._speed = day, speed
        self.cars = np.zeros(len(day.plugged), np.bool_)  # [N] as last told
        self.declared_until_s = np.full(len(day.plugged), np.inf)  # [N] when owners have said to leave

    def follow(self, terms: Columns, now_s: float, changes: Changes | None = None) -> list[Event]:
        """Who is lent no more, and who is from now on, by their days up to now and by what owners say. One that is
        plugged in where it stands has not left."""
        may_be = self._day.plugged | (self._day.parked & terms.parked & terms.opted_in)
        gone, came = self.cars & ~may_be, np.zeros_like(self.cars)
        if changes is not None:
            gone[changes.left] = True
            gone[changes.drove] |= self.cars[changes.drove]
            came[changes.came] = True
            self.declared_until_s[came] = np.inf
        arrived = may_be & (gone | came | ~self.cars)
        self.cars = may_be
        events: list[Event] = [Unplugged(np.flatnonzero(gone))] if gone.any() else []
        return [*events, *self._arrivals(arrived, now_s)]

    def plug(self, nodes: Nodes, now_s: float, stay_s: float | None) -> PluggedIn:
        """A driver's hand has plugged these in [K], for so long, or until it unplugs them."""
        self.cars[nodes] = True
        self.declared_until_s[nodes] = np.inf if stay_s is None else now_s + stay_s
        return PluggedIn(nodes, self._windows_s(nodes, now_s), declared=stay_s is not None)

    def unplug(self, nodes: Nodes) -> Unplugged:
        """A driver's hand has taken these away [K]."""
        self.cars[nodes] = False
        return Unplugged(nodes)

    def _arrivals(self, arrived: NDArray[np.bool_], now_s: float) -> list[Event]:
        """That these are here [N], those together of whom the same is known."""
        day, events = self._day, list[Event]()
        declared = np.isfinite(self.declared_until_s) & day.plugged
        for parked, said in ((False, False), (False, True), (True, False)):
            nodes = np.flatnonzero(arrived & (day.plugged ^ parked) & (declared == said))
            if nodes.size:
                windows_s, age_s = self._windows_s(nodes, now_s), day.age_s(nodes, now_s)
                events.append(PluggedIn(nodes, windows_s, declared=said, age_s=age_s, parked=parked))
        return events

    def _windows_s(self, nodes: Nodes, now_s: float) -> NDArray[np.float64]:
        """How long these are expected to stay [K], real seconds."""
        return self._day.remaining_s(nodes, now_s) / self._speed
