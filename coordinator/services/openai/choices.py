"""Choices: the answers to one call, as far as they are known, and the form in which they are written."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

from coordinator.answers import usage
from coordinator.refusal import Refusal, Refused
from coordinator.streams import Ending, Part

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call asks for: `payloads` for each answer in the order of the choices, `each` of them a prompt."""

    model: str
    payloads: Sequence[bytes]
    each: int
    include_usage: bool = False
    continuous_usage: bool = False


@dataclass(slots=True)
class Choice:
    """One answer, as far as it is known."""

    index: int
    pieces: list[str] = field(default_factory=list)
    likelihoods: list[Any] = field(default_factory=list)  # entries of OpenAI's `logprobs.content`
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None

    def hear(self, part: Part) -> tuple[str, list[Any]]:
        """More of it was said: this text, and how likely its tokens were."""
        text, likelihoods = part.text, _read(part.likelihoods)
        self.pieces.append(text)
        self.likelihoods += likelihoods
        self.prompt_tokens, self.completion_tokens = part.prompt_tokens, part.completion_tokens
        return text, likelihoods

    def end(self, ending: Ending) -> None:
        """All of it was said."""
        self.finish_reason = ending.finish_reason
        self.prompt_tokens, self.completion_tokens = ending.prompt_tokens, ending.completion_tokens


class Style(ABC):
    """How answers are written."""

    whole: str  # `object` of a whole answer
    piece: str  # `object` of a piece of a stream
    mark: str  # ids begin so

    @abstractmethod
    def choice(self, choice: Choice) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """What a stream says of an answer before its text."""

    @abstractmethod
    def more(self, choice: Choice, text: str, likelihoods: list[Any]) -> dict[str, Any]:
        """What a stream says of an answer that goes on, or ends."""


async def together(works: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All of these; the first that fails ends the others, and its error is raised by itself."""
    first, *others = works
    if not others:
        return [await first]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (first, *others)]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def spent(choices: Sequence[Choice], each: int) -> dict[str, int]:
    """Tokens of all choices, of which `each` share a prompt."""
    prompt = sum(choice.prompt_tokens for choice in choices[::each])
    completion = sum(choice.completion_tokens for choice in choices)
    return usage(prompt, completion)


def _read(likelihoods: Iterable[bytes]) -> list[Any]:
    try:
        return checked([json.loads(entry) for entry in likelihoods])
    except ValueError as error:
        raise Refused(Refusal.FAILED, f"the likelihoods of the answer cannot be read: {error}") from None


def checked(likelihoods: Any) -> list[Any]:
    """Entries of OpenAI's `logprobs.content`, as a car gave them. Raises ValueError."""
    if not isinstance(likelihoods, list) or not all(map(_is_entry, likelihoods)):
        raise ValueError("they are no list of entries of `logprobs.content`")
    return likelihoods


def _is_entry(entry: Any) -> bool:
    if not _is_told(entry):
        return False
    likeliest = entry.get("top_logprobs")
    return isinstance(likeliest, list) and all(map(_is_told, likeliest))


def _is_told(entry: Any) -> bool:
    """Whether it says of a token how likely it was, in a number."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("token"), str)
        and isinstance(odds := entry.get("logprob"), int | float)
        and isfinite(odds)
    )
