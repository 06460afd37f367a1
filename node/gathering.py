"""Gathering: how long requests wait for others of their car and model that could share their micro-batch.

Pure; seconds come in as parameters. Whoever asks alone never waits: only where company is likely, since another
request waits as well or the micro-batch before had several, does the first of them wait, for the set delay at most,
and no longer than until the micro-batch is full. What comes while another runs joins without any delay.
"""

from collections.abc import Hashable, Sequence
from math import inf


class Gathering:
    """Of one executor."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._together: dict[Hashable, int] = {}  # requests that shared the last micro-batch of each group

    def until_s(self, group: Hashable, came_s: Sequence[float], items: int, most: int) -> float:
        """When requests that came then, of so many items together, begin: a micro-batch holds `most`."""
        if items >= most or max(len(came_s), self._together.get(group, 0)) < 2:
            return -inf
        return min(came_s) + self._delay_s

    def begun(self, group: Hashable, requests: int) -> None:
        """So many requests of a group share a micro-batch now."""
        self._together[group] = requests
