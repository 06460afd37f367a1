"""The vehicles of one lot in columns: who serves, until when, and what the coordinator was told of it.

Pure: seconds are the lot's own and come in as parameters. Which leases a vehicle holds is `lot`'s business;
here is only how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from node.messages import Offers, Vehicle, Ways

Nodes = NDArray[np.intp]
"""[K] indices of vehicles in the lot."""

RETOLD_CHANGE = 0.1
"""A window or a share that moved by less than this part is not told again (assumed: plans bear a tenth)."""
LEAST_WINDOW_S = 1.0
"""Changes are measured against at least this: the last second of a window is not retold in steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A look at all N vehicles: what their owners' terms allow, and what work there would cost now."""

    withheld: NDArray[np.bool_]  # [N] by their owners: no work, and what there is stops
    speed: NDArray[np.float64]  # [N] what heat leaves of it, 0 to 1
    wake_j: NDArray[np.float64]  # [N] joules that waking each for work would take
    price_per_kwh: float
    carbon_g_per_kwh: float


class Vehicles:
    """N vehicles, numbered from 0 in the order of Hello."""

    def __init__(self, vehicles: Sequence[Vehicle], ways: Ways) -> None:
        count = len(vehicles)
        self.rows = tuple(vehicles)
        self._ways = ways
        self.power_w = np.array([vehicle.power_w for vehicle in vehicles], np.float64)  # [N]
        self.serving = np.zeros(count, np.bool_)  # [N] plugged in, or lent while parked, and not departed
        self.leaving = np.zeros(count, np.bool_)  # [N] departs as soon as its work is stopped
        self.returning = np.zeros(count, np.bool_)  # [N] plugged in again while it was leaving or draining
        self.draining = np.zeros(count, np.bool_)  # [N] departs when it has finished what it holds
        self.leases = np.zeros(count, np.int32)  # [N] held and not ended
        self._leaves_s = np.zeros(count, np.float64)  # [N] expected end of the window
        self._plugged_s = np.zeros(count, np.float64)  # [N] when each was plugged in, or parked
        self._parked = np.zeros(count, np.bool_)  # [N] came off its charger: not a stay as its cohort's are
        self._declared = np.zeros(count, np.bool_)  # [N] the owner has said when the window ends
        self._told_leaves_s = np.zeros(count, np.float64)  # [N] as last offered
        self._told_declared = np.zeros(count, np.bool_)  # [N] as last offered
        self._told_share = np.full(count, np.nan)  # [N] as last offered; NaN: not offered
        self._stale = False
        self._present: bytes | None = None
        self.withheld = np.zeros(count, np.bool_)  # [N] by their owners' terms
        self.wake_j = np.zeros(count, np.float64)  # [N] what waking each for work would take
        self._speed = np.ones(count, np.float64)  # [N] what heat leaves of it
        self._rests_until_s = np.full(count, -np.inf)  # [N] who refused a lease is not offered for a while
        self._told_asleep = np.zeros(count, np.bool_)  # [N] as last offered
        self._awake_s = [0.0] * count  # [N] seconds that each was awake for work, over the leases it held then
        self._turned_s = [0.0] * count  # [N] when that was last brought up to date
        self.moved_bytes = np.zeros(count, np.float64)  # [N] inputs and results, until `take_moved`

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stale(self) -> bool:
        """Whether some offer may have changed since they were last told."""
        return self._stale

    def works(self, node: int) -> bool:
        """Whether it takes work: it serves, and its owner lets it."""
        return bool(self.serving[node] and not self.leaving[node] and not self.withheld[node])

    def sharing(self, now_s: float) -> int:
        """How many are offered for work: each has an equal share."""
        return int(np.count_nonzero(self._lent(now_s)))

    def arrive(
        self,
        nodes: Nodes,
        plugged_s: NDArray[np.float64],
        leaves_s: NDArray[np.float64],
        declared: bool = False,
        parked: bool = False,
    ) -> None:
        """These are on the charger, or `parked` off it, since then [K], expected to stay until then [K]; a drained
        one serves again. One that was here already has been since before.

        One whose work is still being stopped, or that is draining, departs first and serves again after that: the
        coordinator ends a drain with the departure.
        """
        came = ~self.serving[nodes] | self.leaving[nodes]
        self._plugged_s[nodes[came]] = plugged_s[came]
        self._parked[nodes[came]] = parked
        self._declared[nodes] = declared
        self.returning[nodes] = self.leaving[nodes] | self.draining[nodes]
        self.serving[nodes] = True
        self._leaves_s[nodes] = leaves_s
        self._changed()

    def estimate(self, nodes: Nodes, leaves_s: NDArray[np.float64]) -> None:
        """These are now expected to stay until then [K]."""
        self._leaves_s[nodes] = leaves_s
        self._stale = True

    def look(self, looked: Looked) -> None:
        """What the owners and the cars came to be."""
        self.withheld[:] = looked.withheld
        self._speed[:] = looked.speed
        self.wake_j[:] = looked.wake_j
        costs = looked.price_per_kwh, looked.carbon_g_per_kwh
        if costs != (self._ways.price_per_kwh, self._ways.carbon_g_per_kwh):
            self._ways = replace(self._ways, price_per_kwh=costs[0], carbon_g_per_kwh=costs[1])
            self._told_share[:] = np.nan
        self._stale = True

    def rest(self, node: int, until_s: float) -> None:
        """This one is not offered until then; the look after that offers it again."""
        self._rests_until_s[node] = until_s
        self._stale = True

    def take_moved(self) -> NDArray[np.float64]:
        """Bytes that went to and from each [N] since the last call."""
        moved, self.moved_bytes = self.moved_bytes, np.zeros_like(self.moved_bytes)
        return moved

    def lend(self, node: int, leases: int, now_s: float) -> None:
        """It holds so many leases more."""
        self.awake_s(node, now_s)
        self.leases[node] += leases

    def awake_s(self, node: int, now_s: float) -> float:
        """Seconds that it was awake for work until now, each divided by the leases that it held."""
        leases = int(self.leases[node])
        if leases:
            self._awake_s[node] += (now_s - self._turned_s[node]) / leases
        self._turned_s[node] = now_s
        return self._awake_s[node]

    def drain(self, nodes: Nodes) -> None:
        """These finish what they hold; their offers are withdrawn."""
        self.draining[nodes] = self.serving[nodes] & ~self.leaving[nodes]
        self._changed()

    def leave(self, nodes: Nodes) -> None:
        """These depart as soon as nothing of them runs."""
        self.leaving[nodes] = True
        self._changed()

    def depart(self, nodes: Nodes) -> None:
        """These serve no more."""
        self.serving[nodes] = self.returning[nodes]
        for column in (self.returning, self.leaving, self.draining):
            column[nodes] = False
        self._told_share[nodes] = np.nan
        self._changed()

    def retell(self) -> None:
        """The coordinator knows none of the offers: tell all of them."""
        self._told_share[:] = np.nan
        self._stale = True

    def offers(self, now_s: float) -> Offers | None:
        """What the coordinator has to be told about windows and shares now, if anything."""
        self._stale = False
        here = self.serving & ~self.leaving
        lent = self._lent(now_s)
        share = np.where(lent, self._speed / max(1, int(np.count_nonzero(lent))), 0.0)
        asleep = self.wake_j > 0.0
        known_s = np.maximum(self._told_leaves_s - now_s, LEAST_WINDOW_S)
        moved = np.abs(self._leaves_s - self._told_leaves_s) > RETOLD_CHANGE * known_s
        shared = ~(np.abs(share - self._told_share) <= RETOLD_CHANGE * self._told_share)  # also when NaN
        said = (self._declared != self._told_declared) | (lent & (asleep != self._told_asleep))
        nodes = np.flatnonzero(here & (moved | shared | said))
        if not nodes.size:
            return None
        self._told_leaves_s[nodes] = self._leaves_s[nodes]
        self._told_share[nodes] = share[nodes]
        self._told_declared[nodes] = self._declared[nodes]
        self._told_asleep[nodes] = asleep[nodes]
        window_s = np.maximum(self._leaves_s[nodes] - now_s, 0.0)
        age_s = np.maximum(now_s - self._plugged_s[nodes], 0.0) * self._ways.pace
        hour_of_week = self._ways.hour_of_week(now_s)
        return Offers(
            node=nodes.astype(np.int32),
            window_s=window_s,
            share=share[nodes],
            plugged_in_s=age_s,
            declared=self._declared[nodes],
            hour_of_week=hour_of_week,
            ways=self._ways,
            wake_j=self.wake_j[nodes],
            parked=self._parked[nodes],
        )

    def window_s(self, now_s: float) -> NDArray[np.float64]:
        """What remains of each vehicle's window [N], real seconds; 0 for those that are away."""
        return np.where(self.serving, np.maximum(self._leaves_s - now_s, 0.0), 0.0)

    def present(self) -> bytes:
        """Bitmap over the lot: whose computers answer."""
        if self._present is None:
            self._present = np.packbits(self.serving, bitorder="little").tobytes()
        return self._present

    def _lent(self, now_s: float) -> NDArray[np.bool_]:
        """Who is offered for work [N]."""
        resting = self._rests_until_s > now_s
        return self.serving & ~self.leaving & ~self.draining & ~self.withheld & ~resting

    def _changed(self) -> None:
        self._stale = True
        self._present = None
