"""State of charge of a lot's vehicles, in columns: modelled, on simulated time.

Pure. On the charger the wall gives its power until the daily limit; what the car and its computer draw comes
off first, and beyond the limit the wall covers it. Away from the charger nothing is modelled but what the
trip took, which is subtracted on arrival. What has no pack counts as full, always.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.profile import Pack, Profile

FLOOR = 0.05
"""No driver arrives with less (assumed)."""
_NO_PACK = Pack(usable_kwh=np.inf, wall_kw=0.0, charge_to=1.0)


class Battery:
    """N packs."""

    def __init__(self, profiles: Sequence[Profile], state_of_charge: NDArray[np.float64]) -> None:
        packs = [profile.battery or _NO_PACK for profile in profiles]
        self._usable_kwh = np.array([pack.usable_kwh for pack in packs])  # [N]
        self._wall_kw = np.array([pack.wall_kw for pack in packs])  # [N]
        self._charge_to = np.array([pack.charge_to for pack in packs])  # [N]
        self._awake_kw = np.array([profile.awake_w or 0.0 for profile in profiles]) / 1000.0  # [N] unknown: 0
        self._board_kw = np.array([profile.board_w or 0.0 for profile in profiles]) / 1000.0  # [N] unknown: 0
        self.state_of_charge = np.where(np.isinf(self._usable_kwh), 1.0, state_of_charge)  # [N] 0 to 1

    def arrive(self, nodes: NDArray[np.intp], used_kwh: NDArray[np.float64]) -> None:
        """These [K] come back from trips that took so much energy [K]."""
        charge = self.state_of_charge[nodes] - used_kwh / self._usable_kwh[nodes]
        self.state_of_charge[nodes] = np.maximum(charge, FLOOR)

    def advance(self, seconds: float, plugged: NDArray[np.bool_], computing: NDArray[np.bool_]) -> None:
        """So many simulated seconds pass; plugged and computing are [N]."""
        hours = seconds / 3600.0
        net_kw = self._wall_kw - self._awake_kw - np.where(computing, self._board_kw, 0.0)
        charge = self.state_of_charge + np.where(plugged, net_kw * hours / self._usable_kwh, 0.0)
        limit = np.maximum(self._charge_to, self.state_of_charge)
        self.state_of_charge = np.clip(charge, 0.0, limit)
