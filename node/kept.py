"""What the next process of a lot must know for its cars to be the same: handed over now and then.

Pure. The seed and the clock alone would give the days, but neither what owners have said since, nor the charge, nor
what was used of a month's network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.day import Day
from node.guard import Guard


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The cars of one lot, as its last process told of them."""

    began_unix_s: float  # when their clock started
    told_s: float  # real seconds after that: the time of what follows
    day: Day
    guard: Guard  # with their batteries, and their owners' terms
    declared_until_s: NDArray[np.float64]  # [N] of the cars' clock: when owners have said to leave, else infinite
