"""Supply: what the nodes of each kind will be able to do from now on, by the forecast.

Work is counted in seconds of a node of the kind that is best at its model.
"""

from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from coordinator.core.fleet import KindId
from coordinator.core.state import State

Floats = NDArray[np.float64]

LONGEST_S = 2 * 86_400.0
_HORIZONS_S = np.concatenate(([0.0], np.geomspace(1.0, LONGEST_S, 48)))
"""Where the forecast is asked, seconds from then."""

LONGEST_ITEM_S = 8 * 3600.0
"""Items that take longer are matched as if they took so long."""
_STAYS_S = np.concatenate(([0.0], np.geomspace(60.0, LONGEST_ITEM_S, 24)))
"""Where it is asked how long those stay that are here."""

LEAST_STAY = 0.01

_SAMPLE, _LEAST_SAMPLE = 512, 32
"""Nodes that the forecast is asked of, and at least of each kind: it costs 20 to 100 us each."""


@dataclass(frozen=True, slots=True, eq=False)
class KindSupply:
    """Nodes of one kind, as if they were all alike."""

    rates: dict[str, float]  # items a second of a node, by model
    strength: float  # against the best kind
    nodes: float  # that take new work
    node_s: Floats  # [H] node-seconds until each of _HORIZONS_S
    stay: Floats  # [S] chance that one which is here stays until each of _STAYS_S

    def work(self, horizon_s: Floats | float) -> Floats:
        """What it does until then; from LONGEST_S on as much a second as at its end."""
        last = (self.node_s[-1] - self.node_s[-2]) / (_HORIZONS_S[-1] - _HORIZONS_S[-2])
        beyond_s = np.maximum(np.asarray(horizon_s) - LONGEST_S, 0.0)
        done: Floats = self.strength * (np.interp(horizon_s, _HORIZONS_S, self.node_s) + last * beyond_s)
        return done


@dataclass(frozen=True, slots=True, eq=False)
class Supply:
    """All kinds that have a node at work."""

    made_s: float
    kinds: dict[KindId, KindSupply]
    best: dict[str, float]  # items a second of one node, of the kind that is best at it

    @property
    def strengths(self) -> dict[KindId, float]:
        """Of a node of each kind, against the best kind."""
        return {kind: supply.strength for kind, supply in self.kinds.items()}

    def stays(self, model: str, horizon_s: Floats) -> Floats:
        """The chance that a node which runs a model stays so long: the mean, and never nothing."""
        able = [supply for supply in self.kinds.values() if model in supply.rates]
        nodes = sum(supply.nodes for supply in able)
        stay = sum((supply.nodes / nodes * supply.stay for supply in able), np.zeros(len(_STAYS_S)))
        chance: Floats = np.interp(horizon_s, _STAYS_S, stay).clip(LEAST_STAY)
        return chance

    def able(self, model: str, item_work: float, within_s: float) -> int:
        """Bits of the kinds of which a node finishes an item of a model in time."""
        bits = 0
        for kind, supply in self.kinds.items():
            rate = supply.rates.get(model, 0.0)
            if rate > 0 and item_work <= rate * within_s:
                bits |= 1 << kind
        return bits

    def work(self, kinds: int, begin_s: float, end_s: Floats) -> Floats:
        """What the kinds of these bits do between these instants."""
        total = np.zeros(len(end_s))
        for kind, supply in self.kinds.items():
            if kinds >> kind & 1:
                total += supply.work(end_s - self.made_s) - supply.work(begin_s - self.made_s)
        return total


UNKNOWN = Supply(-inf, {}, {})
"""Before it was asked."""


def foresee(state: State, now_s: float) -> Supply:
    """What the fleet will be able to do, as far as can be told now. Without a forecast: what it can now."""
    fleet, forecast = state.fleet, state.forecast
    kind_of, serving = fleet.kinds_of_all()
    kinds: dict[KindId, KindSupply] = {}
    best: dict[str, float] = {}
    for kind in np.unique(kind_of[serving]).tolist():
        rows = np.flatnonzero(kind_of == kind)
        here = rows[serving[rows]]
        share = float(fleet.share[here].mean())
        rates = {model: rate * share for model, rate in fleet.kinds[kind].items()}
        nodes, stay = np.full(len(_HORIZONS_S), float(len(here))), np.ones(len(_STAYS_S))
        if forecast is not None:
            most = max(_LEAST_SAMPLE, _SAMPLE * len(rows) // fleet.size)
            sample = rows[:: -(-len(rows) // most)].astype(np.int32)
            chance = forecast.present(sample, _HORIZONS_S, now_s).mean(axis=0)
            if chance[0] > 0:
                nodes *= chance / chance[0]
            sample = here[:: -(-len(here) // most)].astype(np.int32)
            stay = forecast.stays(sample, _STAYS_S, now_s).mean(axis=0)
        steps = np.diff(_HORIZONS_S) * (nodes[1:] + nodes[:-1]) / 2.0
        kinds[kind] = KindSupply(rates, 0.0, float(len(here)), np.concatenate(([0.0], np.cumsum(steps))), stay)
        for model, rate in rates.items():
            best[model] = max(best.get(model, 0.0), rate)
    for kind, found in kinds.items():
        strength = (
            float(np.mean([rate / best[model] for model, rate in found.rates.items()])) if found.rates else 0.0
        )
        kinds[kind] = replace(found, strength=strength)
    return Supply(now_s, kinds, best)
