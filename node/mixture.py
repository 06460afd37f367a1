"""Mixes: which vehicle of a fleet has what, written as "hw4:6,ai5:2", or "hw4" for all."""

from collections.abc import Callable


def assign(flag: str, mix: str, vehicles: int | None, check: Callable[[str], object]) -> tuple[str, ...]:
    """What each vehicle has; raises ValueError, also where `check` does for a name.

    The counts must add up to `vehicles` where both are given; without either it is one vehicle.
    """
    if ":" not in mix:
        check(mix)
        return (mix,) * (1 if vehicles is None else vehicles)
    assigned: list[str] = []
    for part in mix.split(","):
        name, _, count = part.strip().partition(":")
        if not (name and count.isascii() and count.isdigit()):
            raise ValueError(
                f"{flag} {mix}: {part.strip()!r} is no name with a count; write it like {name or 'a'}:2"
            )
        check(name)
        assigned += [name] * int(count)
    if vehicles is not None and len(assigned) != vehicles:
        raise ValueError(f"{flag} {mix} names {len(assigned)} vehicles and there are {vehicles}; make them equal")
    return tuple(assigned)
