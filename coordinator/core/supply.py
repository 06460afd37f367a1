"""Supply: what the nodes of each kind will be able to do from now on, by the forecast.

Work is counted in seconds of a node of the kind that is best at its model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.core.fleet import KindId
from coordinator.core.state import State

Floats = NDArray[np.float64]

LONGEST_S = 2 * 86_400.0
_HORIZONS_S = np.concatenate(([0.0], np.geomspace(1.0, LONGEST_S, 48)))
"""Where the forecast is asked, seconds from then."""

_LEAST_STAY = 0.01

_SAMPLE, _LEAST_SAMPLE = 512, 32
"""Nodes that the forecast is asked of, and at least of each kind: it costs 20 to 100 us each."""


@dataclass(frozen=True, slots=True, eq=False)
class KindSupply:
    """Nodes of one kind, as if they were all alike."""

    rates: dict[str, float]  # items a second of a node, by model
    strength: float  # against the best kind
    nodes: float  # that take new work
    node_s: Floats  # [H] node-seconds until each of _HORIZONS_S

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
    stay: Floats  # [H] chance that a node which takes new work now stays until each of _HORIZONS_S

    @property
    def strengths(self) -> dict[KindId, float]:
        """Of a node of each kind, against the best kind."""
        return {kind: supply.strength for kind, supply in self.kinds.items()}

    def stays(self, horizon_s: Floats) -> Floats:
        """The chance that a node of the fleet stays so long: the mean, and never nothing."""
        chance: Floats = np.interp(horizon_s, _HORIZONS_S, self.stay).clip(_LEAST_STAY)
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
        nodes = np.full(len(_HORIZONS_S), float(len(here)))
        if forecast is not None:
            most = max(_LEAST_SAMPLE, _SAMPLE * len(rows) // fleet.size)
            sample = rows[:: -(-len(rows) // most)].astype(np.int32)
            chance = forecast.present(sample, _HORIZONS_S, now_s).mean(axis=0)
            if chance[0] > 0:
                nodes *= chance / chance[0]
        steps = np.diff(_HORIZONS_S) * (nodes[1:] + nodes[:-1]) / 2.0
        kinds[kind] = KindSupply(rates, 0.0, float(len(here)), np.concatenate(([0.0], np.cumsum(steps))))
        for model, rate in rates.items():
            best[model] = max(best.get(model, 0.0), rate)
    for kind, found in kinds.items():
        strength = (
            float(np.mean([rate / best[model] for model, rate in found.rates.items()])) if found.rates else 0.0
        )
        kinds[kind] = KindSupply(found.rates, strength, found.nodes, found.node_s)
    stay = np.ones(len(_HORIZONS_S))
    here = np.flatnonzero(serving)
    if forecast is not None and here.size:
        stay = forecast.stays(here[:: -(-here.size // _SAMPLE)].astype(np.int32), _HORIZONS_S, now_s).mean(axis=0)
    return Supply(now_s, kinds, best, stay)
