"""Items of the world's jobs: each payload says what will become of it, so that every answer can be checked."""

from dataclasses import dataclass, replace
from enum import Enum
from random import Random

_LARGE = b" " * 65_536
"""More than this does not travel in a stream."""


class Nature(Enum):
    """What happens to whoever runs an item."""

    SOUND = "."
    BAD = "b"  # its payload cannot be read
    FAILS = "m"  # the model raises
    FLAKY = "f"  # the model raises now and then
    KILLS = "k"  # the process ends


@dataclass(frozen=True, slots=True)
class Item:
    """One item of one submission."""

    submission: int
    index: int
    nature: Nature
    large_input: bool = False
    large_result: bool = False

    @property
    def payload(self) -> bytes:
        """Its input."""
        said = b"%d %d %s %d" % (self.submission, self.index, self.nature.value.encode(), self.large_result)
        return said + _LARGE if self.large_input else said

    @property
    def result(self) -> bytes:
        """The one right answer to it."""
        said = b"=%d %d" % (self.submission, self.index)
        return said + _LARGE if self.large_result else said

    @classmethod
    def of(cls, payload: bytes) -> "Item":
        """The item with this input."""
        submission, index, nature, large = payload.split()
        return cls(int(submission), int(index), Nature(nature.decode()), len(payload) > len(_LARGE), large == b"1")


def draw(generator: Random, submission: int, count: int, poisoned: bool) -> list[Item]:
    """Items of one submission, all of them sound or some of them poison; now and then some that are large."""
    natures = [Nature.SOUND] * count
    if poisoned:
        for _ in range(generator.randint(1, 3)):
            natures[generator.randrange(count)] = generator.choice([*Nature][1:])
    items = [Item(submission, index, nature) for index, nature in enumerate(natures)]
    if generator.random() < 0.2:
        for _ in range(generator.randint(1, 3)):
            at, which = generator.randrange(count), generator.choice((1, 2, 3))
            items[at] = replace(items[at], large_input=bool(which & 1), large_result=bool(which & 2))
    return items
