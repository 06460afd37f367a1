"""Sorted disjoint ranges of item indices: what of a job is still open."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""Items [first, first + count), as (first, count)."""


class Ranges:
    """A set of item indices kept as sorted, disjoint, non-adjacent ranges."""

    __slots__ = ("_ends", "_firsts", "count")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self.count = 0
        for first, count in ranges:
            self.add(first, count)

    @classmethod
    def whole(cls, items: int) -> "Ranges":
        """All of [0, items); there is at least one."""
        made = cls.__new__(cls)
        made._firsts, made._ends, made.count = [0], [items], items
        return made

    def __iter__(self) -> Iterator[Range]:
        for first, end in zip(self._firsts, self._ends, strict=True):
            yield first, end - first

    def __contains__(self, item: int) -> bool:
        at = bisect_left(self._firsts, item + 1) - 1
        return at >= 0 and item < self._ends[at]

    def add(self, first: int, count: int) -> None:
        """Put [first, first + count) in; none of it may be in already."""
        end = first + count
        at = bisect_left(self._firsts, first)
        assert count > 0, "an empty range"
        assert at == 0 or self._ends[at - 1] <= first, "items put back twice"
        assert at == len(self._firsts) or end <= self._firsts[at], "items put back twice"
        joins_left = at > 0 and self._ends[at - 1] == first
        joins_right = at < len(self._firsts) and self._firsts[at] == end
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends[at]
            del self._firsts[at], self._ends[at]
        elif joins_left:
            self._ends[at - 1] = end
        elif joins_right:
            self._firsts[at] = first
        else:
            self._firsts.insert(at, first)
            self._ends.insert(at, end)
        self.count += count

    def remove(self, first: int, count: int) -> None:
        """Take [first, first + count) out; all of it must be in."""
        end = first + count
        at = bisect_left(self._firsts, first + 1) - 1
        assert at >= 0 and end <= self._ends[at], "items taken that are not here"
        keeps_left, keeps_right = self._firsts[at] < first, end < self._ends[at]
        if keeps_left and keeps_right:
            self._firsts.insert(at + 1, end)
            self._ends.insert(at, first)
        elif keeps_left:
            self._ends[at] = first
        elif keeps_right:
            self._firsts[at] = end
        else:
            del self._firsts[at], self._ends[at]
        self.count -= count

    def take(self, count: int) -> tuple[Range, ...]:
        """Take out the first `count` items, or all there are."""
        taken: list[Range] = []
        whole = 0
        for first, end in zip(self._firsts, self._ends, strict=True):
            size = end - first
            if count <= 0:
                break
            if size > count:
                taken.append((first, count))
                self._firsts[whole] = first + count
                self.count -= count
                break
            taken.append((first, size))
            whole += 1
            count -= size
            self.count -= size
        del self._firsts[:whole], self._ends[:whole]
        return tuple(taken)
