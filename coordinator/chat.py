"""A conversation with a model, turn by turn, in a terminal or through a pipe.

Owns the turns and how they look. In a terminal it names the car that speaks, and each that goes on where another
stopped; through a pipe standard output has the answers alone, and standard error the cars. Knows no protobuf.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from coordinator.client import Client
from coordinator.errors import CarpoolError

NEW = "/new"
"""Typed alone, it begins another conversation."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to answer: fields of a chat completion, and what the model is told first."""

    fields: Mapping[str, object]
    system: str = ""


@dataclass(slots=True)
class Conversation:
    """The turns so far."""

    client: Client
    model: str
    manner: Manner
    out: Console
    notes: Console  # who speaks, where that is not shown beside what they say
    turns: list[dict[str, str]] = field(default_factory=list)

    def begin(self) -> None:
        """Forget all turns."""
        self.turns = [{"role": "system", "content": self.manner.system}] if self.manner.system else []

    async def ask(self, question: str) -> None:
        """Show the answer to a question as it comes; a question that gets none is no turn."""
        self.turns.append({"role": "user", "content": question})
        payload = json.dumps({"messages": self.turns, **self.manner.fields}).encode()
        answer, vehicle = "", ""
        try:
            async with aclosing(self.client.generate(self.model, payload)) as said:
                async for part in said:
                    if part.vehicle and part.vehicle != vehicle:
                        self._name(part.vehicle, instead_of=vehicle)
                        vehicle = part.vehicle
                    answer += part.text
                    self._show(part.text)
            self.turns.append({"role": "assistant", "content": answer})
        except BaseException:
            self.turns.pop()
            raise
        finally:
            if vehicle:
                self.out.print()

    def _name(self, vehicle: str, instead_of: str) -> None:
        if self.out.is_terminal:
            note = f" [{vehicle} goes on] " if instead_of else f"{vehicle}: "
            self.out.print(Text(note, style="dim"), end="")
        else:
            self.notes.print(Text(f"{vehicle} {'goes on' if instead_of else 'speaks'}"))

    def _show(self, text: str) -> None:
        if self.out.is_terminal:
            self.out.print(Text(text), end="", soft_wrap=True)
        else:
            self.out.file.write(text)
            self.out.file.flush()


def converse(target: str, api_key: str, model: str, manner: Manner, out: Console, notes: Console) -> None:
    """Answer each line of standard input until it ends; `model` may be empty where only one can chat.

    In a terminal Ctrl-C ends an answer, and at the prompt the conversation.
    """
    with asyncio.Runner() as runner:
        client = runner.run(Client(target, api_key).__aenter__())
        try:
            model = runner.run(_chosen(client, model))
            conversation = Conversation(client, model, manner, out, notes)
            conversation.begin()
            if sys.stdin.isatty():
                notes.print(Text(f"{model}; {NEW} begins anew, Ctrl-D ends.", style="dim"))
            while (line := _line()) is not None:
                if line == NEW:
                    conversation.begin()
                elif line:
                    _answer(runner, conversation, line)
        finally:
            runner.run(client.__aexit__(None, None, None))


def _answer(runner: asyncio.Runner, conversation: Conversation, line: str) -> None:
    """One turn; at a terminal the conversation outlives one that fails."""
    try:
        runner.run(conversation.ask(line))
    except CarpoolError as error:
        if not sys.stdin.isatty():
            raise
        conversation.notes.print(Text(f"carpool: {error}", style="red"))
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise


def _line() -> str | None:
    """The next line, without what surrounds it; None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


async def _chosen(client: Client, model: str) -> str:
    """The model to talk to; refused when it is none that answers, or when there is a choice."""
    models = await client.models()
    able = [offered.name for offered in models if offered.kind == "generate"]
    if model in able or (not model and len(able) == 1):
        return model or able[0]
    known = f"those that do: {', '.join(able)}" if able else "no car offers one that does; try `carpool models add`"
    if not model:
        raise CarpoolError(f"name the model to talk to; {known}" if able else f"no model to talk to: {known}")
    raise CarpoolError(f"{model!r} does not answer in words; {known}")
