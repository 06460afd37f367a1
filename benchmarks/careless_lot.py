"""`python -m benchmarks.careless_lot`: a lot that overlooks its owners' least charge, for the audit to find."""

import sys

import node.cars
from node.__main__ import main
from node.battery import Flags, Floats
from node.guard import Guard, Reason


class CarelessGuard(Guard):
    """As ever, but for one term."""

    def look(
        self,
        now_s: float,
        ahead_s: float,
        plugged: Flags,
        parked: Flags,
        declared_s: Floats,
        elsewhere: Flags | None = None,
    ) -> None:
        """Bring `reason` up to date, and forget that a pack may be too empty."""
        super().look(now_s, ahead_s, plugged, parked, declared_s, elsewhere)
        self.reason[self.reason == Reason.CHARGE_LOW] = Reason.NONE


if __name__ == "__main__":
    node.cars.Guard = CarelessGuard  # type: ignore[attr-defined]
    sys.exit(main())
