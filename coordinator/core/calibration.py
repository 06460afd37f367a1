"""Calibration: what the forecast said of a sample of the nodes here, against what came of it. Knows no job."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from coordinator.core.events import Rows
from coordinator.core.forecast import HOUR_S, Floats, Survival
from coordinator.core.tally import Tally

HORIZONS = {"15m": 0.25, "1h": 1.0, "4h": 4.0}
"""Hours of the car's own clock after which the outcome is looked at."""
BINS = 10
"""Tenths of probability."""
_EVERY_H = 0.5  # of the car's clock: so often the forecast is asked, beginning with the plug-in
_SAMPLED = 512  # nodes at most: with more here every second one is taken, every fourth, and so on


class _Said(NamedTuple):
    due_s: float
    horizon: str
    chance: float


@dataclass(slots=True)
class _Sampled:
    """One node of the sample, since it came."""

    pace: float
    ask_s: float  # when it is asked about next
    pending: list[_Said] = field(default_factory=list)


class Calibration:
    """The forecasts whose outcomes are waited for."""

    def __init__(self, forecast: Survival, tally: Tally) -> None:
        self._forecast, self._tally = forecast, tally
        self._step = 1  # rows that this divides are in the sample
        self._sample: dict[int, _Sampled] = {}
        self._asks: list[tuple[float, int]] = []  # when which is asked about; some have left since

    def came(self, rows: Rows, pace: Floats, now_s: float) -> None:
        """These are here, as the forecast knows; seconds of their clocks in one of ours."""
        chosen = rows % self._step == 0
        while len(self._sample) + int(chosen.sum()) > _SAMPLED:
            self._step *= 2
            self._sample = {row: one for row, one in self._sample.items() if row % self._step == 0}
            chosen = rows % self._step == 0
        for row, its_pace in zip(rows[chosen].tolist(), pace[chosen].tolist(), strict=True):
            self._sample[row] = _Sampled(its_pace, now_s)
            heappush(self._asks, (now_s, row))

    def left(self, row: int, now_s: float, departed: bool) -> None:
        """This one is gone. Not `departed`: it is out of sight, and what was said of later is not judged."""
        one = self._sample.pop(row, None)
        if one is None:
            return
        for said in one.pending:
            if said.due_s <= now_s or departed:
                self._count(said, said.due_s <= now_s)

    def ask(self, now_s: float) -> None:
        """Judge what is due, and ask anew, of every node whose turn it is."""
        due: dict[int, _Sampled] = {}
        while self._asks and self._asks[0][0] <= now_s:
            at_s, row = heappop(self._asks)
            one = self._sample.get(row)
            if one is not None and one.ask_s == at_s:
                due[row] = one
        if not due:
            return
        hours = np.array(list(HORIZONS.values()))
        horizons_s = hours * HOUR_S / np.array([one.pace for one in due.values()])[:, None]
        chances = self._forecast.stays(np.array(list(due), np.int32), horizons_s, now_s)
        for (row, one), after_s, said in zip(due.items(), horizons_s.tolist(), chances.tolist(), strict=True):
            for past in one.pending:
                if past.due_s <= now_s:
                    self._count(past, stayed=True)
            one.pending = [later for later in one.pending if later.due_s > now_s]
            one.pending += map(_Said, (now_s + seconds for seconds in after_s), HORIZONS, said)
            one.ask_s = now_s + _EVERY_H * HOUR_S / one.pace
            heappush(self._asks, (one.ask_s, row))

    def _count(self, said: _Said, stayed: bool) -> None:
        tenth = min(int(said.chance * BINS), BINS - 1)
        self._tally.forecast_outcomes[said.horizon, tenth, stayed] += 1
        self._tally.forecast_chances[said.horizon, tenth] += said.chance
