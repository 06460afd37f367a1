"""Hedging: when an answer is so slow to begin that another car is asked the same. Knows no job and no clock."""

from collections import deque

_FACTOR, _LEAST_S = 4.0, 0.25
"""A second car is asked after so many times the usual time to the first token, and not sooner (assumed)."""
_PART, _MOST = 20, 4
"""One in so many requests, and so many at most, are asked of two cars at once (assumed): a fleet that is slow is
not to get slower, and a twin that waits is not to hide what waits behind it."""
_LEAST_KNOWN, _MOST_KNOWN = 8, 64
"""Answers by which the usual is told."""


class Hedging:
    """How long the latest answers of each model took to begin, and how many requests two cars are asked now."""

    def __init__(self) -> None:
        self.asked = 0
        self._took_s: dict[str, deque[float]] = {}

    def began(self, model: str, took_s: float) -> None:
        """An answer began so long after a car was lent it."""
        self._took_s.setdefault(model, deque(maxlen=_MOST_KNOWN)).append(took_s)

    def patience_s(self, model: str) -> float | None:
        """How long to wait for a car that was lent an answer; None: nobody knows what is usual."""
        took_s = sorted(self._took_s.get(model, ()))
        return max(_LEAST_S, _FACTOR * took_s[len(took_s) // 2]) if len(took_s) >= _LEAST_KNOWN else None

    def may_ask(self, requests: int) -> bool:
        """Whether one more of so many open requests may be asked of two cars."""
        return self.asked < min(_MOST, max(1, requests // _PART))
