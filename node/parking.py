"""Where a lot's vehicles are while they are off their chargers: driving, or parked, there or elsewhere.

Pure; seconds are simulated, since Monday 00:00. Who is off the charger, and until when, is `day`'s business. From
its charger a car drives; it stands and drives in turns, and where it does not stand by its charger it drives before
it is plugged in again. Draws depend on the car and on when it left its charger, and change nothing in its day.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from node.draws import fraction, key, mixed
from node.plan import Away
from node.vehicles import Nodes

LEAST_REST_S = 60.0
"""A car that has stood beyond all that is known is expected to stand a minute more (assumed)."""

Seconds = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Parking:
    """N vehicles."""

    def __init__(self, ways: Sequence[Away | None], stream: NDArray[np.uint64]) -> None:
        """`ways` of each, None: off the charger it drives all the time; stream [N] seeds the draws."""
        count = len(ways)
        kinds = tuple({id(one): one for one in ways if one is not None}.values())
        self._kinds = [(one, np.array([way is one for way in ways], np.bool_)) for one in kinds]
        self._stands = np.array([way is not None for way in ways], np.bool_)  # [N] at all
        self.parked = np.zeros(count, np.bool_)  # [N] as of the last `pass_time`
        self.by_charger = np.zeros(count, np.bool_)  # [N] where each parked car stands; else it is elsewhere
        self.since_s = np.zeros(count)  # [N] when it stopped there
        self._left_s = np.full(count, np.nan)  # [N] when its absence began; NaN: it is on its charger
        self._turns_s = np.full(count, np.inf)  # [N] when it stops, or drives off
        self._stream, self._drawn = stream, np.zeros(count, np.uint64)

    def next_change_s(self) -> float:
        """When the next one stops or drives off; infinite when none will."""
        return float(self._turns_s.min(initial=np.inf))

    def pass_time(self, gone: Flags, left_s: Seconds, until_s: Seconds, now_s: float) -> Flags:
        """Up to now. Those gone [N] have been off their chargers since left_s [N] and will be until until_s [N];
        the others are on them since until_s. Who was parked at the last call and drove off since [N]."""
        same = gone & (left_s == self._left_s)
        drove = self.parked & np.where(gone, ~same | (self._turns_s <= now_s), self._turns_s < until_s)
        self.parked &= same
        self._turns_s[~same] = np.inf
        self._left_s = np.where(gone, left_s, np.nan)
        leaving = np.flatnonzero(gone & ~same & self._stands)
        self._drawn[leaving] = key(left_s[leaving])
        self._drive(leaving, left_s, until_s)
        while (due := np.flatnonzero(self._turns_s <= now_s)).size:
            goes = self.parked[due]
            self._drive(due[goes], self._turns_s, until_s)
            self._stop(due[~goes], until_s)
        return drove

    def remaining_s(self, nodes: Nodes, now_s: float) -> Seconds:
        """How much longer these [K], which are parked, are expected to stand: the median of those that have stood
        as long."""
        expected = np.full(len(nodes), LEAST_REST_S)
        for way, at in self._by_kind(nodes):
            elapsed_s = now_s - self.since_s[nodes[at]]
            gone = np.interp(elapsed_s, way.stands_s, way.stands_part)
            median_s = np.interp((1.0 + gone) / 2.0, way.stands_part, way.stands_s)
            expected[at] = np.maximum(median_s - elapsed_s, LEAST_REST_S)
        return expected

    def _drive(self, nodes: Nodes, at_s: Seconds, until_s: Seconds) -> None:
        """These [K] drive off then [N], to their next stop or their charger."""
        stops_s = at_s[nodes] + self._lasting_s(nodes)
        self.parked[nodes] = False
        self._turns_s[nodes] = np.where(stops_s < until_s[nodes], stops_s, np.inf)

    def _stop(self, nodes: Nodes, until_s: Seconds) -> None:
        """These [K] stand from now, which is their turn, on; who has to drive back at once does not stop."""
        at_s, back_s = self._turns_s[nodes], self._lasting_s(nodes)
        for way, at in self._by_kind(nodes):
            rows = nodes[at]
            by_charger = self._uniform(rows) < way.at_home
            ends_s = at_s[at] + np.interp(self._uniform(rows), way.stands_part, way.stands_s)
            ends_s = np.minimum(ends_s, until_s[rows] - np.where(by_charger, 0.0, back_s[at]))
            self.by_charger[rows], self.since_s[rows] = by_charger, at_s[at]
            self.parked[rows] = ends_s > at_s[at]
            self._turns_s[rows] = np.where(self.parked[rows], ends_s, np.inf)

    def _lasting_s(self, nodes: Nodes) -> Seconds:
        """Draw how long the next drive of these [K] takes."""
        lasting_s = np.zeros(len(nodes))
        for way, at in self._by_kind(nodes):
            lasting_s[at] = np.interp(self._uniform(nodes[at]), way.drive_part, way.drive_s)
        return lasting_s

    def _by_kind(self, nodes: Nodes) -> Iterator[tuple[Away, Nodes]]:
        for way, of in self._kinds:
            at = np.flatnonzero(of[nodes])
            if at.size:
                yield way, at

    def _uniform(self, nodes: Nodes) -> NDArray[np.float64]:
        """The next draw of each of these [K], in [0, 1)."""
        self._drawn[nodes] += np.uint64(1)
        return fraction(mixed(self._drawn[nodes] ^ self._stream[nodes], seed=6))
