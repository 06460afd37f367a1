"""The vehicles, as operators see them and direct them. Knows neither the store nor the links."""

from collections.abc import Callable, Sequence
from time import monotonic

from coordinator import words
from coordinator.core import views
from coordinator.core.events import Event, NodesCordoned, NodesDrained
from coordinator.core.scheduler import Scheduler
from coordinator.roster import Roster


class Vehicles:
    """All that are known. Whoever names one that is not is refused."""

    def __init__(self, scheduler: Scheduler, roster: Roster, post: Callable[[Event], None]) -> None:
        """`post` tells the core."""
        self._scheduler = scheduler
        self._roster = roster
        self._post = post

    def capable(self, model: str) -> int:
        """How many are here that run a model."""
        return self._scheduler.fleet.capable(model)

    def views(self) -> list[tuple[str, str, views.NodeView]]:
        """Every one: its name, its lot's name, and how it is."""
        roster = self._roster
        return [
            (roster.names[view.row], roster.lot_names[view.lot], view)
            for view in views.node_views(self._scheduler.state, monotonic())
        ]

    def explain(self, name: str) -> list[str]:
        """Why one has the work that it has, or none, a sentence each."""
        why = self._scheduler.explain_node(self._row(name), monotonic())
        return [f"{name} joins just now."] if why is None else words.of_node(name, why, self._scheduler.settings)

    def chances(self, name: str) -> tuple[tuple[float, float], ...]:
        """The chance that one is still here after each of some hours of its own clock."""
        return self._scheduler.chances(self._row(name), monotonic())

    def cordon(self, names: Sequence[str], cordoned: bool) -> None:
        """Give these no new work, or give them work again."""
        self._post(NodesCordoned(self._roster.find(names), cordoned))

    def drain(self, names: Sequence[str]) -> None:
        """Let these finish what they hold and then leave."""
        self._post(NodesDrained(self._roster.find(names)))

    def _row(self, name: str) -> int:
        (row,) = self._roster.find([name])
        return int(row)
