"""Items of the world's jobs: each payload says what will become of it, so that every answer can be checked."""

from dataclasses import dataclass
from enum import Enum
from random import Random


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

    @property
    def payload(self) -> bytes:
        """Its input."""
        return b"%d %d %s" % (self.submission, self.index, self.nature.value.encode())

    @property
    def result(self) -> bytes:
        """The one right answer to it."""
        return b"=" + self.payload

    @classmethod
    def of(cls, payload: bytes) -> "Item":
        """The item with this input."""
        submission, index, nature = payload.split()
        return cls(int(submission), int(index), Nature(nature.decode()))


def draw(generator: Random, submission: int, count: int, poisoned: bool) -> list[Item]:
    """Items of one submission, all of them sound or some of them poison."""
    natures = [Nature.SOUND] * count
    if poisoned:
        for _ in range(generator.randint(1, 3)):
            natures[generator.randrange(count)] = generator.choice([*Nature][1:])
    return [Item(submission, index, nature) for index, nature in enumerate(natures)]
