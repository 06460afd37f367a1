"""Who has which positions of a buffer of keys and values, and which beginnings of earlier rows are still there.

Pure. A row has a stretch of positions for its prompt and its longest answer; what does not fit waits. What a row
leaves behind is kept as long as there is room, and a new row of the same owner takes over what it has in common.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Stretch:
    """Positions start <= p < end of the buffer, of which the first `len(tokens)` are filled, with these tokens."""

    owner: Hashable  # nobody else sees what is in it
    start: int
    end: int
    tokens: list[int] = field(default_factory=list)
    kept: bool = False  # its row has ended

    def common(self, tokens: Sequence[int]) -> int:
        """Tokens at the beginning that are the same."""
        both = min(len(self.tokens), len(tokens))
        if self.tokens[:both] == tokens[:both]:
            return both
        return next(n for n in range(both) if self.tokens[n] != tokens[n])


class Stretches:
    """All of one buffer."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self._held: list[Stretch] = []  # by their places
        self._ended: list[Stretch] = []  # the kept ones, the longest unused first

    @property
    def used(self) -> int:
        """Positions of rows that have not ended."""
        return sum(stretch.end - stretch.start for stretch in self._held if not stretch.kept)

    def best(self, owner: Hashable, tokens: Sequence[int]) -> tuple[Stretch | None, int]:
        """The stretch of this owner that has most of these tokens at its beginning, and how many."""
        own = [(stretch.common(tokens), stretch) for stretch in self._held if stretch.owner == owner]
        count, stretch = max(own, key=lambda pair: pair[0], default=(0, None))
        if stretch is not None and stretch.kept and count:
            self._ended.remove(stretch)
            self._ended.append(stretch)  # used just now
        return (stretch, count) if count else (None, 0)

    def take(self, owner: Hashable, positions: int) -> Stretch | None:
        """A stretch of so many, for which kept ones go, the longest unused first; None: there is no room now."""
        if positions > self.positions - self.used:
            return None
        while (start := self._gap(positions)) is None:
            if not self._ended:
                return None  # there is room, but in pieces
            self._held.remove(self._ended.pop(0))
        stretch = Stretch(owner, start, start + positions)
        self._held.append(stretch)
        self._held.sort(key=lambda held: held.start)
        return stretch

    def keep(self, stretch: Stretch) -> None:
        """Its row has ended; what it filled stays until the room is wanted."""
        self.free(stretch)
        if stretch.tokens:
            stretch.end, stretch.kept = stretch.start + len(stretch.tokens), True
            self._held.append(stretch)
            self._held.sort(key=lambda held: held.start)
            self._ended.append(stretch)

    def free(self, stretch: Stretch) -> None:
        """Nobody wants what is in it."""
        self._held.remove(stretch)

    def _gap(self, positions: int) -> int | None:
        """The first free place for so many."""
        start = 0
        for stretch in self._held:
            if stretch.start - start >= positions:
                return start
            start = stretch.end
        return start if self.positions - start >= positions else None
