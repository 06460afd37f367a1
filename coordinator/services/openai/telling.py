"""Answers told as they are made: server-sent events, the last of them `[DONE]`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from coordinator.services.openai.call import Call
from coordinator.services.openai.choices import Asked, Choice, Style, spent, together
from coordinator.streams import Ending, Part

_COMMENT_S = 15.0
"""A stream that tells nothing for so long says so, lest a proxy closes it."""


class Telling:
    """One stream of answers."""

    def __init__(
        self, call: Call, style: Style, asked: Asked, head: Mapping[str, Any], choices: Sequence[Choice]
    ) -> None:
        """`head` is the id of all pieces, when they were created, and the model."""
        self._call = call
        self._style = style
        self._asked = asked
        self._choices = choices
        self._head = {**head, "object": style.piece}
        self._open = len(choices)

    async def tell(self, say: Callable[[Choice], AsyncGenerator[Part | Ending]]) -> None:
        """All of it, to its end; `say` gives one answer as it is made."""
        try:
            async with asyncio.TaskGroup() as comments:
                pulse = _Pulse(self._call, comments, asyncio.get_running_loop())
                try:
                    endings = await together(self._tell(choice, say(choice), pulse) for choice in self._choices)
                finally:
                    pulse.stop()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        last = b"".join(endings)
        if self._asked.include_usage:
            last += self._event([], spent(self._choices, self._asked.each))
        await self._call.write(last + b"data: [DONE]\n\n", last=True)

    async def _tell(self, choice: Choice, saying: AsyncGenerator[Part | Ending], pulse: "_Pulse") -> bytes:
        """Tell one answer; returns what is left to be said, if it was the last that was open."""
        began, ended = b"", b""
        if (opening := self._style.opening(choice)) is not None:
            began = self._event([opening], None)
        async with aclosing(saying):
            async for said in saying:
                if isinstance(said, Ending):
                    choice.end(said)
                    ended = began + self._event([self._style.more(choice, "", [])], self._so_far(choice))
                    continue
                text, likelihoods = choice.hear(said)
                choice.pieces.clear()
                choice.likelihoods.clear()
                if text or likelihoods or self._asked.continuous_usage:
                    began += self._event([self._style.more(choice, text, likelihoods)], self._so_far(choice))
                if began:
                    await self._call.write(began)
                    pulse.felt()
                    began = b""
        self._open -= 1
        if self._open:
            await self._call.write(ended)
            return b""
        return ended

    def _so_far(self, choice: Choice) -> dict[str, int] | None:
        return spent([choice], 1) if self._asked.continuous_usage else None

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        chunk: dict[str, Any] = {**self._head, "choices": choices}
        if self._asked.include_usage:
            chunk["usage"] = usage
        return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()


class _Pulse:
    """Comments in a stream that has begun and tells nothing for long."""

    def __init__(self, call: Call, tasks: asyncio.TaskGroup, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._tasks = tasks
        self._loop = loop
        self._felt_s = loop.time()
        self._timer = loop.call_later(_COMMENT_S, self._beat)

    def felt(self) -> None:
        """Something was told."""
        self._felt_s = self._loop.time()

    def stop(self) -> None:
        """The stream has ended."""
        self._timer.cancel()

    def _beat(self) -> None:
        due_s = self._felt_s + _COMMENT_S
        if self._loop.time() >= due_s:
            if self._call.started:
                self._tasks.create_task(self._call.write(b": \n\n"))
            self.felt()
            due_s = self._felt_s + _COMMENT_S
        self._timer = self._loop.call_at(due_s, self._beat)
