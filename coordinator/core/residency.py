"""Which node may load which model: where loading takes long, each model has a quota of the nodes of each kind."""

from collections import Counter

from coordinator.core.fleet import KindId, Lot
from coordinator.core.queues import Queues
from coordinator.core.state import State


class Residency:
    """What is resident where, with the loads that are under way, against the quotas of the plan."""

    def __init__(self, state: State, queues: Queues) -> None:
        self._state = state
        self._queues = queues
        self._quotas: dict[tuple[KindId, str], float] = {}
        self._loading: dict[int, str] = {}  # node: the model it was lent work for that it has to load
        self._moved: Counter[tuple[KindId, str]] = Counter()  # by those loads
        self._resident: dict[tuple[KindId, str], int] = {}
        self._counted_at = -1  # the fleet's version when `_resident` was counted

    def plan(self, quotas: dict[tuple[KindId, str], float]) -> None:
        """Go by these quotas from now on."""
        self._quotas = quotas
        loading = {
            row: model
            for row, model in self._loading.items()
            if any(lease.model == model for lease in self._state.held.get(row, {}).values())
            and model not in self._lot(row).resident
        }
        self._loading, self._moved = {}, Counter()
        for row, model in loading.items():
            self.load(row, model)

    def load(self, row: int, model: str) -> None:
        """A node was lent work for a model that it has to load."""
        if row not in self._loading:
            kind = self._state.fleet.kind(row)
            self._loading[row] = model
            self._moved[kind, model] += 1
            self._moved.subtract((kind, other) for other in self._lot(row).resident)

    def allows(self, row: int, model: str) -> bool:
        """Whether a node may be lent batch work for a model."""
        lot = self._lot(row)
        if not lot.heavy:
            return True
        kind = self._state.fleet.kind(row)
        if model in lot.resident:
            return not self._over(kind, model) or not any(
                self._under(kind, other) and self._queues.waits(other) for other in lot.heavy - {model}
            )
        if model not in lot.heavy or not lot.resident:
            return True
        if not any(self._queues.waits(other) for other in lot.resident):
            return True
        return self._under(kind, model) and all(self._over(kind, other) for other in lot.resident)

    def _lot(self, row: int) -> Lot:
        return self._state.fleet.lot_of(row)

    def _nodes(self, kind: KindId, model: str) -> int:
        fleet = self._state.fleet
        if self._counted_at != fleet.version:
            self._counted_at, self._resident = fleet.version, fleet.resident()
        return self._resident.get((kind, model), 0) + self._moved[kind, model]

    def _under(self, kind: KindId, model: str) -> bool:
        return self._nodes(kind, model) + 0.5 <= self._quotas.get((kind, model), 0.0)

    def _over(self, kind: KindId, model: str) -> bool:
        return self._nodes(kind, model) - 0.5 >= self._quotas.get((kind, model), 0.0)
