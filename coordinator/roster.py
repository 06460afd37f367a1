"""The roster: which name belongs to which row of the core's node table, and which lot is which.

Owns names and the numbers given to them; knows nothing of what happens to nodes.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.core.events import LotId, Rows
from coordinator.refusal import Refusal, Refused


class Roster:
    """Names of lots and vehicles, and their numbers in the core. Numbers are never reused."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of vehicles, by row
        self.lot_names: list[str] = []  # by LotId
        self._rows: dict[str, int] = {}  # by vehicle's name
        self._owners: list[LotId] = []  # by row
        self._lots: dict[str, LotId] = {}
        self.index: list[int] = []  # by row: its place in its lot's own list

    def enter(self, lot_name: str, vehicles: Sequence[str]) -> tuple[LotId, Rows]:
        """Number a lot and its vehicles; a lot that is known keeps its numbers.

        Refused: no or a doubled name, or a vehicle that belongs to another lot.
        """
        if not lot_name or not vehicles or not all(vehicles):
            raise Refused(Refusal.BAD_INPUT, "a lot needs a lot_id and at least one vehicle, all with names")
        if len(set(vehicles)) != len(vehicles):
            raise Refused(Refusal.BAD_INPUT, f"lot {lot_name} names a vehicle twice; names must be unique")
        lot = self._lots.get(lot_name, LotId(len(self.lot_names)))
        for name in vehicles:
            row = self._rows.get(name)
            if row is not None and self._owners[row] != lot:
                other = self.lot_names[self._owners[row]]
                raise Refused(
                    Refusal.ALREADY_EXISTS, f"vehicle {name} belongs to lot {other}; give this one another name"
                )
        if lot == len(self.lot_names):
            self.lot_names.append(lot_name)
            self._lots[lot_name] = lot
        for name in vehicles:
            if name not in self._rows:
                self._rows[name] = len(self.names)
                self.names.append(name)
                self._owners.append(lot)
                self.index.append(0)
        rows = [self._rows[name] for name in vehicles]
        for place, row in enumerate(rows):
            self.index[row] = place
        return lot, np.array(rows, np.int32)

    def find(self, names: Sequence[str]) -> Rows:
        """Rows of vehicles by name; refused when one is not known."""
        for name in names:
            if name not in self._rows:
                raise Refused(
                    Refusal.NOT_FOUND, f"no vehicle is called {name}; `carpool nodes` lists those that are known"
                )
        return np.array([self._rows[name] for name in names], np.int32)
