"""What tends to be submitted: work a second, by tenant and by value for the work. What is old counts less."""

from collections import defaultdict
from math import log2

_HALF_LIFE_S = 8 * 3600.0
_LEAST_S = 1800.0
"""What came in less than this is taken for what comes in this."""


class Arrivals:
    """A decaying sum of the work that came."""

    def __init__(self) -> None:
        self._came: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._watched_s = 0.0  # decaying, as the sums do
        self._now_s: float | None = None
        self._rates: dict[tuple[str, int], float] = {}  # as they were asked for since something came

    def note(self, tenant: str, density: float, work_s: float, now_s: float) -> None:
        """So much work came, of this value for the work."""
        self._pass(now_s)
        self._rates.clear()
        self._came[tenant][_class(density)] += work_s

    def rate_above(self, tenant: str, density: float) -> float:
        """Work a second that came of clearly higher value."""
        key = tenant, _class(density)
        rate = self._rates.get(key)
        if rate is None:
            work_s = sum(work_s for number, work_s in self._came[tenant].items() if number > key[1])
            rate = self._rates[key] = work_s / max(self._watched_s, _LEAST_S)
        return rate

    def _pass(self, now_s: float) -> None:
        passed_s = 0.0 if self._now_s is None else now_s - self._now_s
        self._now_s = now_s
        keep = 0.5 ** (passed_s / _HALF_LIFE_S)
        self._watched_s = keep * self._watched_s + passed_s
        for came in self._came.values():
            for number in came:
                came[number] *= keep


def _class(density: float) -> int:
    """Densities within a factor of the square root of two are of one class."""
    return round(2 * log2(min(max(density, 1e-30), 1e30)))
