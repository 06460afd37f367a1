"""A lease: a slice of a job's items lent to one node, under a token, until a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.core.bits import mask, positions, runs
from coordinator.core.events import JobId, LotId, Token
from coordinator.core.ranges import Range


@dataclass(slots=True, eq=False)
class Lease:
    """A slice on a node. Bitmaps count its items in the order of `ranges`."""

    token: Token
    lot: LotId
    node: int
    job: JobId
    model: str
    ranges: tuple[Range, ...]
    items: int
    interactive: bool
    solo: bool
    granted_s: float
    expected_s: float  # work in it at the node's speed, when it was granted
    lease_s: float  # it runs out after so long without a report
    expires_s: float
    reported_s: float  # the last report, or the grant
    done: int = 0  # bitmap: results accepted
    failed: int = 0  # bitmap: errors reported
    running: int = 0  # bitmap: on the accelerator or next, as last announced
    spoke: bool = False  # tokens of its answers came

    @property
    def undone(self) -> int:
        """Bitmap of the items that have neither result nor error."""
        return mask(self.items) & ~(self.done | self.failed)

    def left(self, now_s: float) -> float:
        """Items that should not be done yet: it is taken to go on, since its last report, as was expected."""
        since_s = now_s - self.reported_s
        progress = since_s * self.items / self.expected_s if self.expected_s > 0 else 0.0
        return max(0.0, self.undone.bit_count() - progress)

    def item(self, offset: int) -> int:
        """Index in the job of the item at this offset."""
        for first, count in self.ranges:
            if offset < count:
                return first + offset
            offset -= count
        raise AssertionError("an offset beyond the lease")

    def items_of(self, bits: int) -> list[int]:
        """Indices in the job of these items, in order."""
        return [self.item(offset) for offset in positions(bits)]

    def ranges_of(self, bits: int) -> tuple[Range, ...]:
        """These items as ranges of the job."""
        return tuple(ranges_of(self.ranges, bits))


def ranges_of(ranges: tuple[Range, ...], bits: int) -> Iterator[Range]:
    """The items of a bitmap over `ranges`, as ranges of the job, in order."""
    offset = 0
    for first, count in ranges:
        for start, length in runs((bits >> offset) & mask(count)):
            yield first + start, length
        offset += count
