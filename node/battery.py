"""State of charge of a lot's vehicles, in columns: modelled, on simulated time.

Pure. On the charger the wall gives its power until the daily limit, and above 80 % ever less of it. What the car
around the computer and the computer draw comes from the wall first; what the wall lacks comes out of the pack.
Of a car that is neither plugged in nor parked nothing is modelled but what the trip took, subtracted on arrival.
What has no pack is fed by the mains and counts as full, always.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.profile import Pack, Profile

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

FLOOR = 0.05
"""No driver arrives with less (assumed)."""
TAPER_FROM = 0.8
"""State of charge above which a pack takes less than the wall could give (assumed)."""
TAPER_TO = 0.2
"""Part of the wall's power that a pack still takes when it is nearly full (assumed)."""
STEP_S = 300.0
"""Simulated seconds in one step of the integration."""
MOST_STEPS = 96
"""A longer time is cut into so many steps."""
_MAINS = Pack(usable_kwh=np.inf, wall_kw=np.inf, charge_to=1.0)


class Battery:
    """N packs."""

    def __init__(self, profiles: Sequence[Profile], state_of_charge: Floats) -> None:
        packs = [profile.battery or _MAINS for profile in profiles]
        self.usable_kwh = np.array([pack.usable_kwh for pack in packs])  # [N] infinite without a pack
        self.wall_kw = np.array([pack.wall_kw for pack in packs])  # [N] at most
        self.charge_to = np.array([pack.charge_to for pack in packs])  # [N] where charging ends
        self.awake_kw = np.array([profile.awake_w or 0.0 for profile in profiles]) / 1000.0  # [N] unknown: 0
        self.board_kw = np.array([profile.board_w or 0.0 for profile in profiles]) / 1000.0  # [N] unknown: 0
        self.state_of_charge = np.where(np.isinf(self.usable_kwh), 1.0, state_of_charge)  # [N] 0 to 1
        self.compute_kwh = np.zeros(len(profiles))  # [N] drawn by the computers so far
        self.awake_kwh = np.zeros(len(profiles))  # [N] drawn by the cars around them so far

    def arrive(self, nodes: NDArray[np.intp], used_kwh: Floats) -> None:
        """These [K] come back from trips that took so much energy [K]."""
        charge = self.state_of_charge[nodes] - used_kwh / self.usable_kwh[nodes]
        self.state_of_charge[nodes] = np.maximum(charge, FLOOR)

    def accepts_kw(self) -> Floats:
        """What each pack would take from the wall now [N], kW; 0 at its limit."""
        return np.where(self.state_of_charge < self.charge_to, self.tapered_kw(self.state_of_charge), 0.0)

    def tapered_kw(self, charge: Floats) -> Floats:
        """What each pack takes at such a state of charge [N], kW, whatever its limit."""
        part = 1.0 - (1.0 - TAPER_TO) * (charge - TAPER_FROM) / (1.0 - TAPER_FROM)
        kw: Floats = self.wall_kw * part.clip(TAPER_TO, 1.0)
        return kw

    def load_kw(self, awake: Flags, computing: Flags) -> Floats:
        """What cars and computers draw [N], kW."""
        return np.where(awake | computing, self.awake_kw, 0.0) + np.where(computing, self.board_kw, 0.0)

    def advance(
        self,
        seconds: float,
        plugged: Flags,
        computing: Flags,
        awake: Flags | None = None,
        parked: Flags | None = None,
        given_kw: Floats | None = None,
    ) -> None:
        """So many simulated seconds pass; columns are [N].

        By default all that are plugged in are awake, none is parked elsewhere, and the wall gives all it can.
        """
        awake = plugged if awake is None else awake
        here = plugged if parked is None else plugged | parked
        supply_kw = np.where(plugged, self.wall_kw if given_kw is None else np.minimum(given_kw, self.wall_kw), 0.0)
        load_kw = np.where(here, self.load_kw(awake, computing), 0.0)
        steps = min(max(1, int(np.ceil(seconds / STEP_S))), MOST_STEPS)
        hours = seconds / steps / 3600.0
        spare_kw = np.maximum(supply_kw - load_kw, 0.0)
        lacking_kw = np.maximum(load_kw - supply_kw, 0.0)
        for _ in range(steps):
            net_kw = np.minimum(spare_kw, self.accepts_kw()) - lacking_kw
            charge = self.state_of_charge + net_kw * hours / self.usable_kwh
            self.state_of_charge = np.clip(charge, 0.0, np.maximum(self.charge_to, self.state_of_charge))
        self.compute_kwh += np.where(here & computing, self.board_kw, 0.0) * steps * hours
        self.awake_kwh += np.where(here & (awake | computing), self.awake_kw, 0.0) * steps * hours
