"""The roofline: how long a computer takes for a model's arithmetic and for what it must move, and at what energy.

Pure. An operation takes the longer of the two (Williams et al., 2009): its arithmetic at the peak, or its weights,
activations, keys and values at the bandwidth of the memory. With the peaks of a data sheet that is a lower bound:
no computer is faster, real ones are slower. One that was measured has curves instead: thin products are slower than
square ones, large copies slower than small ones. Workloads say what a micro-batch costs, `Machine` what a computer
can do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import exp, inf, log

from node.profile import Profile


class Phase(Enum):
    """What a model does with tokens."""

    ENCODE = "encode"  # every item at once, in one pass: texts into vectors, pictures into classes
    PREFILL = "prefill"  # prompts, many tokens in a pass: bound by arithmetic, as a rule
    DECODE = "decode"  # one token of each row in a pass: bound by weights and keys and values, as a rule


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a model, done so many times."""

    flops: float  # a multiply-add is two
    values: float  # numbers read and written: weights, activations, keys and values
    times: float = 1.0
    thinnest: float = inf  # of the three sizes of a matrix product the smallest; infinite where there is none


@dataclass(frozen=True, slots=True)
class Curve:
    """A rate that depends on a size, by points (size, rate) of rising size: in between on a power law, beyond the
    ends as at them."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def flat(cls, rate: float) -> "Curve":
        """The same rate at any size."""
        return cls(((1.0, rate),))

    def at(self, size: float) -> float:
        """The rate at a size."""
        if size <= self.points[0][0]:
            return self.points[0][1]
        for (below, low), (above, high) in pairwise(self.points):
            if size <= above:
                part = log(size / below) / log(above / below)
                return exp((1.0 - part) * log(low) + part * log(high))
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one micro-batch asks of any computer."""

    parameters: float  # values that lie in memory whatever the batch
    held: float  # values that lie there for this batch: keys and values
    items: int
    tokens: Mapping[Phase, float]  # passed through; of pictures, the pictures
    operations: Mapping[Phase, tuple[Operation, ...]]

    @property
    def flops(self) -> float:
        """All arithmetic."""
        return sum(part.flops * part.times for parts in self.operations.values() for part in parts)

    @property
    def values(self) -> float:
        """All values read and written."""
        return sum(part.values * part.times for parts in self.operations.values() for part in parts)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a roofline needs to know of a computer."""

    name: str
    flops_per_s: Curve  # by the thinnest size of a product
    bytes_per_s: Curve  # by the bytes that an operation moves
    value_bytes: float  # of a weight or an activation
    memory_bytes: float | None  # None: not asked
    power_w: float | None  # None: unknown

    @classmethod
    def of(cls, profile: Profile) -> "Machine":
        """A profile's computer in the narrowest type whose speed is known: models are taken to run in that type,
        weights and activations alike. Raises ValueError when its speed or its bandwidth is unknown."""
        tops = profile.int8_tops or profile.half_tops
        if tops is None or profile.bandwidth_gb_per_s is None:
            lacking = "int8_tops" if tops is None else "bandwidth_gb_per_s"
            raise ValueError(
                f"profile {profile.name!r} cannot be timed, its {lacking} is unknown; choose another one"
            )
        return cls(
            profile.name,
            Curve.flat(tops * 1e12),
            Curve.flat(profile.bandwidth_gb_per_s * 1e9),
            1.0 if profile.int8_tops else 2.0,
            None if profile.memory_gb is None else profile.memory_gb * 1e9,
            profile.board_w,
        )


@dataclass(frozen=True, slots=True)
class Modelled:
    """What the roofline says."""

    seconds: Mapping[Phase, float]
    compute_bound_s: float  # the part of all seconds in operations bound by arithmetic
    energy_j: float | None  # None: the computer's draw is unknown

    @property
    def total_s(self) -> float:
        """Of all phases."""
        return sum(self.seconds.values())


def model(machine: Machine, cost: Cost) -> Modelled:
    """A micro-batch on a machine; raises ValueError when it does not fit the machine's memory."""
    needed = (cost.parameters + cost.held) * machine.value_bytes
    if machine.memory_bytes is not None and needed > machine.memory_bytes:
        raise ValueError(
            f"profile {machine.name!r} has {machine.memory_bytes / 1e9:,.3g} GB of memory, and the model with "
            f"what it keeps of its items takes {needed / 1e9:,.3g} GB; choose one with more, or a smaller model"
        )
    phases, compute_bound_s = {}, 0.0
    for phase, operations in cost.operations.items():
        phases[phase], bound_s = _seconds(machine, operations)
        compute_bound_s += bound_s
    total_s = sum(phases.values())
    return Modelled(phases, compute_bound_s, None if machine.power_w is None else total_s * machine.power_w)


def seconds(machine: Machine, cost: Cost) -> float:
    """A micro-batch on a machine, whether it fits or not."""
    return sum(_seconds(machine, operations)[0] for operations in cost.operations.values())


def _seconds(machine: Machine, operations: Iterable[Operation]) -> tuple[float, float]:
    """All of these, and those among them that arithmetic bounds."""
    total_s = bound_s = 0.0
    for operation in operations:
        moved = operation.values * machine.value_bytes
        compute_s = operation.flops / machine.flops_per_s.at(operation.thinnest)
        move_s = moved / machine.bytes_per_s.at(moved)
        total_s += operation.times * max(compute_s, move_s)
        bound_s += operation.times * compute_s if compute_s > move_s else 0.0
    return total_s, bound_s


def linear(tokens: float, width_in: float, width_out: float, times: float = 1.0) -> Operation:
    """A linear layer over so many tokens; its weights are read once for all of them."""
    moved = tokens * (width_in + width_out) + width_in * width_out
    return Operation(2.0 * tokens * width_in * width_out, moved, times, min(tokens, width_in, width_out))


def attention(
    rows: float, queries: float, keys: float, heads: int, key_heads: int, head_width: int, times: float = 1.0
) -> Operation:
    """Rows of so many queries over so many keys: scores stay where they are made, keys and values are read once."""
    moved = rows * 2.0 * head_width * (queries * heads + keys * key_heads)
    thinnest = min(queries * heads / key_heads, keys, head_width)
    return Operation(4.0 * rows * queries * keys * heads * head_width, moved, times, thinnest)


def elementwise(values: float, times: float = 1.0) -> Operation:
    """An operation on each value by itself, that reads and writes so many."""
    return Operation(values, values, times)
