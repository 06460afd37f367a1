"""Many payloads together: one piece of bytes and the length of each, so that what handles a million of them by the
thousand makes no object for each."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

MESSAGE_BYTES = (64 << 20) + (1 << 20)
"""Largest message of a call: a payload of 64 MiB, the largest that a lot takes, in its envelope."""

LENGTH = "I"
"""Type code of a length: unsigned, 4 bytes."""


@dataclass(frozen=True, slots=True)
class Items:
    """Payloads in order, `payload` one behind the other; the lengths add up to it."""

    payload: bytes | memoryview
    lengths: "array[int]"  # of LENGTH, bytes

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Self:
        """These payloads."""
        return cls(b"".join(payloads), array(LENGTH, map(len, payloads)))

    @classmethod
    def joined(cls, several: Sequence["Items"]) -> "Items":
        """One for all of these, in order."""
        if len(several) == 1:
            return several[0]
        lengths = array(LENGTH)
        for items in several:
            lengths.extend(items.lengths)
        return cls(b"".join(items.payload for items in several), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def each(self) -> list[bytes]:
        """The payloads, one by one."""
        return split(self.payload, self.lengths)


def split(payload: bytes | memoryview, lengths: Iterable[int]) -> list[bytes]:
    """Payloads of these lengths that lie one behind the other."""
    ends = accumulate(lengths, initial=0)
    return [bytes(payload[begin:end]) for begin, end in pairwise(ends)]
