"""Numbers that look random and are functions of what they are for: a seed, a vehicle, how many it has had.

Pure.
"""

import numpy as np
from numpy.typing import NDArray


def key(seconds: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A moment as what a draw is of, to the millisecond."""
    return np.round(seconds * 1000.0).astype(np.int64).view(np.uint64) << np.uint64(16)


def fraction(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mixed(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Sebastiano Vigna's splitmix64 finaliser: bits that look random, the same for the same input."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = (values + np.uint64(seed & 0xFFFFFFFF) * np.ones_like(values) * golden + np.uint64(1)) * golden
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
