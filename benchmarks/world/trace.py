"""What happened in a world: a hash over all of it, and how often which fault and which recovery came."""

from collections import Counter
from hashlib import blake2b
from struct import pack

from benchmarks.world.clock import Clock


class Trace:
    """Two worlds with the same hash delivered the same bytes at the same times."""

    def __init__(self, clock: Clock) -> None:
        self.faults: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self._clock = clock
        self._hash = blake2b(digest_size=16)

    def note(self, happened: bytes) -> None:
        """This happened now."""
        self._hash.update(pack("<dI", self._clock.now_s, len(happened)))
        self._hash.update(happened)

    def count(self, fault: str) -> None:
        """A fault of this kind struck."""
        self.faults[fault] += 1
        self.note(fault.encode())

    def reach(self, path: str, times: int = 1) -> None:
        """A way of recovering was gone."""
        if times:
            self.reached[path] += times

    @property
    def digest(self) -> str:
        """The hash of everything until now."""
        return self._hash.hexdigest()
