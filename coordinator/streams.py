"""Streams: answers that are told as they are made, by one car after the other. Knows no job and no call.

A position in an answer is said once: what comes again is passed over, and what would leave a gap is refused. What
the client has not read yet is kept together, so a slow one holds up nobody and costs no more than its answer.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from coordinator.core.events import Token


@dataclass(frozen=True, slots=True)
class Partial:
    """What a lot says of an answer: `tokens` from place `first` on, and `text` after `start` characters of it."""

    token: Token
    item: int  # offset in the lease
    first: int
    tokens: Sequence[int]
    start: int
    text: str
    reused: int = 0  # tokens that its car held from work before
    prompt_tokens: int = 0  # of the prompt; 0: the lot does not tell
    likelihoods: Sequence[bytes] = ()  # of each of `tokens`, as in OpenAI's `logprobs.content`, if asked for
    busy_s: float = 0.0  # accelerator-seconds that its lease has taken until then; 0: the lot does not tell


@dataclass(slots=True)
class Part:
    """What one car said and nobody has read."""

    vehicle: int  # row of the car
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    likelihoods: list[bytes] = field(default_factory=list)  # of each of `tokens`, if asked for; see `Partial`
    prompt_tokens: int = 0  # of the prompt; 0: not told yet
    completion_tokens: int = 0  # of the answer, with `tokens`
    busy_s: float = 0.0  # accelerator-seconds since the part before, as the lot tells them; 0: it does not

    @property
    def text(self) -> str:
        """What the tokens made final."""
        return "".join(self.pieces)


class Breach(Enum):
    """Why something that was said does not count."""

    STALE = "stale_token"
    GAP = "gap"
    REPEATED = "duplicate"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Stream:
    """One answer, from its first token to its last."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.characters = 0
        self.first_s: float | None = None  # of its first token
        self.last_s = 0.0  # of its last token so far
        self.told_s = 0.0  # when the core heard of it last
        self.lease: Token | None = None  # that spoke last
        self.vehicle = -1  # row of the car that spoke last; before any did, of the one that was lent it
        self.lent_s: float | None = None  # when the first car was lent it
        self.handovers = 0
        self.prompt_tokens = 0  # 0: not told yet
        self.recomputed = 0  # tokens that were said before, each time another lease went on, but for those it held
        self.busy_s: dict[Token, float] = {}  # accelerator-seconds that each lease that spoke has taken, as told
        self.news = asyncio.Event()
        self._text: list[str] = []
        self._parts: list[Part] = []

    @property
    def text(self) -> str:
        """All that was said."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    def lend(self, vehicle: int, now_s: float) -> None:
        """A car is to speak, or to go on."""
        if self.lent_s is None:
            self.lent_s = now_s
            self.news.set()
        if not self.tokens:
            self.vehicle = vehicle

    def hear(self, said: Partial, vehicle: int, now_s: float) -> tuple[Breach | None, float | None]:
        """A car says more: why that does not count, and how long nobody spoke, if another lease did before."""
        known, gap_s = len(self.tokens), None
        if said.first > known or said.start > self.characters:
            return Breach.GAP, None
        tokens, text = said.tokens[known - said.first :], said.text[self.characters - said.start :]
        likelihoods = said.likelihoods[known - said.first :] if len(said.likelihoods) == len(said.tokens) else ()
        if not tokens and not text:
            return Breach.REPEATED, None
        if self.lease is not None and self.lease != said.token:
            gap_s = now_s - self.last_s
            self.handovers += 1
            self.recomputed += known - said.reused  # of its prompt, too
        self.lease, self.vehicle, self.last_s = said.token, vehicle, now_s
        if self.first_s is None:
            self.first_s = now_s
        self.prompt_tokens = self.prompt_tokens or said.prompt_tokens
        busy_s = max(0.0, said.busy_s - self.busy_s.get(said.token, 0.0))
        self.busy_s[said.token] = self.busy_s.get(said.token, 0.0) + busy_s
        self._say(vehicle, tokens, text, likelihoods, busy_s)
        return None, gap_s

    def finish(self, text: str) -> None:
        """The answer is complete; what nobody has said of its text is said now: a lot may tell no tokens."""
        if len(text) > self.characters:
            self._say(self.vehicle, (), text[self.characters :])

    def _say(
        self,
        vehicle: int,
        tokens: Sequence[int],
        text: str,
        likelihoods: Sequence[bytes] = (),
        busy_s: float = 0.0,
    ) -> None:
        """Keep what was said for whoever reads."""
        if not self._parts or self._parts[-1].vehicle != vehicle:
            self._parts.append(Part(vehicle))
        self.tokens += tokens
        part = self._parts[-1]
        part.tokens += tokens
        part.pieces.append(text)
        part.likelihoods += likelihoods
        part.busy_s += busy_s
        part.prompt_tokens, part.completion_tokens = self.prompt_tokens, len(self.tokens)
        self._text.append(text)
        self.characters += len(text)
        self.news.set()

    def take(self) -> list[Part]:
        """What was said since it was taken last."""
        self.news.clear()
        parts, self._parts = self._parts, []
        return parts


def ending(result: bytes) -> tuple[str, Ending]:
    """The text of a result of the kind "generate", and how it ended. Raises ValueError."""
    try:
        read = json.loads(result)
        reason, text = read["finish_reason"], read["text"]
        if isinstance(reason, str) and isinstance(text, str):
            return text, Ending(reason, int(read["prompt_tokens"]), int(read["completion_tokens"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the model's result cannot be read: {error}") from None
    raise ValueError("the model's result cannot be read: its text and its finish_reason must be strings")
