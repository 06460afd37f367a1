"""Bitmaps as Python integers: bit i stands for item i of a lease. At most 4,096 bits, so every step is short."""

from collections.abc import Iterator


def mask(count: int) -> int:
    """The bitmap of `count` set bits, from bit 0."""
    return (1 << count) - 1


def runs(bits: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits in rising order, each as (first bit, length)."""
    first = 0
    while bits:
        gap = (bits & -bits).bit_length() - 1
        first += gap
        bits >>= gap
        length = (~bits & (bits + 1)).bit_length() - 1
        yield first, length
        first += length
        bits >>= length


def positions(bits: int) -> Iterator[int]:
    """Set bits in rising order."""
    for first, length in runs(bits):
        yield from range(first, first + length)
