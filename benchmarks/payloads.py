"""Distinct payloads of 170 bytes, about what a short question has."""

from collections.abc import Iterator
from itertools import count
from random import Random

BYTES = 170


def payloads() -> Iterator[bytes]:
    """Endless, and every one different: a number of 8 bytes, then noise that is always the same."""
    noise = Random(170).randbytes(BYTES - 8)
    for number in count():
        yield number.to_bytes(8, "little") + noise
