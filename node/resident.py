"""Which models of an executor are in its memory, what each takes, which is loaded next, and who leaves for it.

Pure: seconds come in as parameters, and so does what waits. Models are loaded for interactive works before batch
ones, and of a kind for the one that came first. A model leaves for a work only when nothing of it is under way, and
if no work for it comes first; of those that may leave the least recently used go, as many as it takes. So models
take turns by works; only batch work waits for as long as there is always a request for a model in its place. For
batch work a model that is wanted stays a while first, lest all time goes by in loading.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

STAYS = 4.0
"""A model that has work stays for so many times its loading before it leaves for batch work (assumed): then loading
takes a fifth of the time at most."""


@dataclass(frozen=True, slots=True)
class Want:
    """A work that waits or runs."""

    model: str
    interactive: bool
    number: int  # works came in this order
    begun: bool  # something of it is under way, and needs its model

    @property
    def rank(self) -> tuple[bool, int]:
        """The less, the sooner it is due."""
        return not self.interactive, self.number


@dataclass(frozen=True, slots=True)
class Change:
    """A model that is to be loaded, and those that leave for it first, once nothing of them is under way."""

    load: str
    leaving: tuple[str, ...]
    may_begin: bool  # nothing of those that leave is under way any more


class Residents:
    """The models in a memory."""

    def __init__(self, memory_bytes: float) -> None:
        self._memory_bytes = memory_bytes
        self._bytes: dict[str, float] = {}  # of all models that are known
        self._stay_until_s: dict[str, float] = {}
        self._there: OrderedDict[str, None] = OrderedDict()  # the least recently used first

    def __contains__(self, model: str) -> bool:
        return model in self._there

    @property
    def used_bytes(self) -> float:
        """What those that are there take."""
        return sum(self._bytes[model] for model in self._there)

    def fits_beside(self, model: str) -> bool:
        """Whether a model that is known has room beside those that are there."""
        return self.used_bytes + self._bytes[model] <= self._memory_bytes

    def enter(self, model: str, size_bytes: float, now_s: float = 0.0, took_s: float = 0.0) -> None:
        """A model was loaded, which took so long."""
        self._bytes[model] = size_bytes
        self._there[model] = None
        self._there.move_to_end(model)
        self._stay_until_s[model] = now_s + STAYS * took_s

    def use(self, model: str) -> None:
        """A model that is there is at work."""
        self._there.move_to_end(model)

    def leave(self, model: str) -> None:
        """A model is there no more."""
        del self._there[model]

    def leaving_for(self, size_bytes: float, staying: Collection[str] = ()) -> tuple[str, ...] | None:
        """Who leaves for something of this size, the least recently used first; None if too much has to stay."""
        lacking = self.used_bytes + size_bytes - self._memory_bytes
        leaving: list[str] = []
        for model in self._there:
            if lacking <= 0.0:
                break
            if model not in staying and self._bytes[model] > 0.0:
                leaving.append(model)
                lacking -= self._bytes[model]
        for model in reversed(leaving):
            if lacking + self._bytes[model] <= 0.0:  # what came after it is enough
                leaving.remove(model)
                lacking += self._bytes[model]
        return tuple(leaving) if lacking <= 0.0 else None

    def change(self, wants: Iterable[Want], now_s: float) -> Change | None:
        """What is to be loaded next for these works; None when there is nothing to load, or no room can be made."""
        ranked = sorted(wants, key=lambda want: want.rank)
        asked: set[str] = set()
        for place, want in enumerate(ranked):
            if want.model in self or want.model in asked or want.model not in self._bytes:
                continue
            asked.add(want.model)
            staying = {other.model for other in ranked[:place]}
            if not want.interactive:
                wanted = {other.model for other in ranked}
                staying |= {model for model in wanted if self._stay_until_s.get(model, now_s) > now_s}
            leaving = self.leaving_for(self._bytes[want.model], staying)
            if leaving is not None:
                begun = any(other.begun and other.model in leaving for other in ranked)
                return Change(want.model, leaving, not begun)
        return None
