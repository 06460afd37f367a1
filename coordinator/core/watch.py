"""The watch: who is here, as the forecast is told of it, many at once. Knows no lease and no job."""

import numpy as np
from numpy.typing import NDArray

from coordinator.core.calibration import HORIZONS, Calibration
from coordinator.core.events import Cause, NodesOffered
from coordinator.core.forecast import HOUR_S, Floats, Survival
from coordinator.core.tally import Tally

_SAME_END_PART, _SAME_END_S = 0.05, 1.0
"""A declared end that moved by less than this part of what remains, or by less than so long, is the same: messages
take their time."""
_AT_ONCE = 20_000  # stays that end together: the forecast cuts each into hours


class Watch:
    """Which rows the forecast takes to be here."""

    def __init__(self, forecast: Survival, tally: Tally) -> None:
        self._forecast = forecast
        self._calibration = Calibration(forecast, tally)
        self._here = np.zeros(0, np.bool_)
        self._declared_s = np.zeros(0)  # NaN: nothing declared
        self._pace = np.ones(0)  # seconds of each one's clock in one of ours
        self._gone: tuple[list[int], list[int]] = ([], [])  # out of sight, departed: not told yet

    def offered(self, event: NodesOffered, now_s: float) -> None:
        """Tell of those that were not here, or whose owners have said another end."""
        habits, rows = event.habits, event.node
        if habits is None or not len(rows):
            return
        self._tell_gone(now_s)
        self._grow(int(rows.max()) + 1)
        remaining_s = np.where(habits.declared, event.until_s - now_s, np.nan)
        moved = self._here[rows] & self._moved(self._declared_s[rows] - now_s, remaining_s)
        if moved.any():
            self._forecast.left(rows[moved], now_s, departed=False)
        new = moved | ~self._here[rows]
        if not new.any():
            return
        self._forecast.plugged_in(
            rows[new],
            habits.cohort[new],
            habits.hour_of_week[new],
            now_s,
            age_s=habits.age_s[new],
            remaining_s=remaining_s[new],
            pace=habits.pace[new],
        )
        self._pace[rows[new]] = habits.pace[new]
        came = ~self._here[rows]
        self._calibration.came(rows[came], habits.pace[came], now_s)
        self._here[rows] = True
        self._declared_s[rows[new]] = event.until_s[new]
        self._declared_s[rows[~habits.declared]] = np.nan

    def left(self, row: int, cause: Cause, now_s: float) -> None:
        """This one is gone: to be told with others by `settle`."""
        if row < len(self._here) and self._here[row]:
            self._here[row] = False
            departed = cause is Cause.UNPLUGGED
            self._gone[departed].append(row)
            self._calibration.left(row, now_s, departed)

    def chances(self, row: int, now_s: float) -> tuple[tuple[float, float], ...]:
        """The chance that this one stays for each horizon, hours of its own clock; none when it is away."""
        if row >= len(self._here) or not self._here[row]:
            return ()
        hours = np.array(list(HORIZONS.values()))
        said = self._forecast.stays(np.array([row], np.int32), hours * HOUR_S / self._pace[row], now_s)
        return tuple(zip(hours.tolist(), said[0].tolist(), strict=True))

    def settle(self, now_s: float) -> None:
        """Tell of all that are gone, and judge what is due of what was said before."""
        self._tell_gone(now_s)
        self._calibration.ask(now_s)

    def _tell_gone(self, now_s: float) -> None:
        """What was not unplugged is merely out of sight."""
        for departed, gone in enumerate(self._gone):
            for first in range(0, len(gone), _AT_ONCE):
                rows = np.array(gone[first : first + _AT_ONCE], np.int32)
                self._forecast.left(rows, now_s, departed=bool(departed))
            gone.clear()

    @staticmethod
    def _moved(before_s: Floats, now_s: Floats) -> NDArray[np.bool_]:
        """Which declared ends are others than before; both from now."""
        same = np.abs(before_s - now_s) <= np.maximum(_SAME_END_S, _SAME_END_PART * before_s)
        return ~(same | (np.isnan(before_s) & np.isnan(now_s)))

    def _grow(self, size: int) -> None:
        known = len(self._here)
        if size > known:
            room = max(size, 2 * known, 64)
            self._here = np.concatenate([self._here, np.zeros(room - known, np.bool_)])
            self._declared_s = np.concatenate([self._declared_s, np.full(room - known, np.nan)])
            self._pace = np.concatenate([self._pace, np.ones(room - known)])
