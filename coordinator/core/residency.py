"""Which node may load which model, where loading takes long.

A model that needs more nodes than have it, lest deadlines pass, takes them from one that is less in need. Besides,
what is waited for longest is loaded.
"""

from collections import Counter, defaultdict
from math import inf

from coordinator.core.fleet import KindId, Lot
from coordinator.core.plan import Plan
from coordinator.core.queues import Queues
from coordinator.core.state import State

_WORTH = 12.0
"""A model is loaded if that shortens the wait for it by so many times the loading."""

_SOONER = 6.0
"""A model that lacks nodes takes one from another for a deadline that is earlier by so many times the loading."""

_FILLS = 5.0
"""A node that has nothing to do loads a model if what waits takes those that have it so many times the loading and
half a slice."""

_PATIENCE = 12.0
"""A model that went nowhere for so many times the loading is loaded wherever there is a node."""


class Residency:
    """How much each model is wanted, against the nodes that have it resident or are loading it."""

    def __init__(self, state: State, queues: Queues) -> None:
        self._state = state
        self._queues = queues
        self._nodes_for: dict[str, float] = {}  # nodes of the best kind that a model needs, lest deadlines pass
        self._strengths: dict[KindId, float] = {}
        self._waiting_s: defaultdict[str, float] = defaultdict(float)  # work, on a node of the best kind
        self._spare_s: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._refused_s: dict[str, float] = {}  # since when work for a model is kept from nodes, and goes nowhere
        self._loading: dict[int, str] = {}  # node: the model it was lent work for that it has to load
        self._moved: Counter[tuple[KindId, str]] = Counter()  # by those loads
        self._power: defaultdict[str, float] = defaultdict(float)  # nodes of the best kind that have a model
        self._counted_at = -1  # the fleet's `moved` when that was counted

    def plan(self, plan: Plan) -> None:
        """What the nodes can do, how many of them each model needs, and the work that waits."""
        self._nodes_for, self._spare_s = plan.nodes_for, plan.spare_s
        self._strengths = plan.supply.strengths
        self._best = plan.supply.best
        self._waiting_s = defaultdict(float, plan.waiting_s)
        self._refused_s = {model: s for model, s in self._refused_s.items() if self._queues.waits(model)}
        loading = {
            row: model
            for row, model in self._loading.items()
            if any(lease.model == model for lease in self._state.held.get(row, {}).values())
            and model not in self._lot(row).resident
        }
        self._loading, self._moved = {}, Counter()
        self._counted_at = -1
        for row, model in loading.items():
            self._load(row, model)

    def lend(self, row: int, model: str, items: float) -> None:
        """A node was lent so many of a model's items."""
        lot = self._lot(row)
        if self._refused_s and self._wanted(lot, model):
            self._refused_s.pop(model, None)
        if model in lot.heavy:
            self._load(row, model)
        if lot.heavy and model in self._best:
            self._waiting_s[model] = max(0.0, self._waiting_s[model] - items / self._best[model])

    def refused(self, model: str, now_s: float) -> None:
        """Work for a model was kept from a free node."""
        self._refused_s.setdefault(model, now_s)

    def allows(self, row: int, model: str, now_s: float) -> bool:
        """Whether a node may be lent batch work for a model: none is kept from it for long."""
        lot = self._lot(row)
        if not lot.heavy:
            return True
        refused_s = self._refused_s.get(model)
        if refused_s is not None and now_s - refused_s > _PATIENCE * lot.heaviest_s:
            return True
        return self._wanted(lot, model)

    def _wanted(self, lot: Lot, model: str) -> bool:
        if model not in lot.heavy:
            return not any(self._presses(lot, other, model) for other in lot.heavy if self._lacks(other))
        if self._lacks(model) and all(self._presses(lot, model, other) for other in lot.resident):
            return True
        if self._fills(lot, model):
            return True
        wait_s, worth_s = self._wait_s(model), _WORTH * lot.speeds[model].load_s
        return all(wait_s > self._wait_s(other) + worth_s for other in lot.resident)

    def _fills(self, lot: Lot, model: str) -> bool:
        """Whether only late work waits for what a lot has loaded, and a model's is worth loading it."""
        work_s = self._spare_s.get(model, 0.0) + self._waiting_s[model]
        least_s = _FILLS * lot.speeds[model].load_s + self._state.settings.slice_target_s / 2.0
        if not work_s > least_s * self._power_of(model):
            return False
        return self._queues.hurries(model) and not any(map(self._queues.hurries, lot.resident))

    def _lot(self, row: int) -> Lot:
        return self._state.fleet.lot_of(row)

    def _load(self, row: int, model: str) -> None:
        if row not in self._loading:
            kind = self._state.fleet.kind(row)
            self._loading[row] = model
            self._counted_at = -1
            self._moved[kind, model] += 1
            self._moved.subtract((kind, other) for other in self._lot(row).resident)

    def _lacks(self, model: str) -> bool:
        """Whether a model lacks nodes for its deadlines."""
        return self._nodes_for.get(model, -inf) > self._power_of(model)

    def _presses(self, lot: Lot, model: str, other: str) -> bool:
        """Whether the next deadline of a model that lacks nodes is clearly earlier than another's."""
        soonest_s = self._queues.soonest_s(model)
        if soonest_s == inf:
            return False
        return self._queues.soonest_s(other) - soonest_s > _SOONER * lot.speeds[model].load_s

    def _wait_s(self, model: str) -> float:
        """How long the nodes that have a model take for what waits for it."""
        waiting_s, power = self._waiting_s[model], self._power_of(model)
        return waiting_s / power if power > 0 else inf if waiting_s > 0 else 0.0

    def _power_of(self, model: str) -> float:
        """Nodes of the best kind that have a model."""
        fleet = self._state.fleet
        if self._counted_at != fleet.moved:
            self._counted_at = fleet.moved
            resident = Counter(fleet.resident())
            resident.update(self._moved)
            self._power = defaultdict(float)
            for (kind, known), nodes in resident.items():
                self._power[known] += nodes * self._strengths.get(kind, 0.0)
        return self._power[model]
