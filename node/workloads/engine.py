"""Rows of answers in the making that step together: they join and leave between two steps.

A step is one pass of the network over the next token of every row that has its prompt behind it, and a chunk of
prompts that have not. Nothing of a row changes before its step is over, so a step that is stopped in the middle, or
fails, can be taken again without those that are to blame.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from node.workloads import BadModel, Control
from node.workloads.chat import ChatRequest
from node.workloads.decoder import Decoder
from node.workloads.device import Guard
from node.workloads.memory import Part, Pass
from node.workloads.sampling import Likelihood, choose, gap, likelihood
from node.workloads.stretches import Stretch, Stretches
from node.workloads.transcript import Transcript

CHUNK_TOKENS = {"cpu": 256, "cuda": 4_096}
"""Tokens of prompts in one step, so that no layer takes long."""

CHUNK_BESIDE_TOKENS = {"cpu": 48, "cuda": 1_024}
"""The same while other rows wait for their next tokens: they wait little longer than without."""

TRICKLE_TOKENS = {"cpu": 6, "cuda": 256}
"""The same of patient rows, while others are there that are not: those steps take less than twice as long.
With `smollm2` on one thread in fp32 and a row that answers 1.6 times; 2.1 with 16 tokens."""

KEYS_LIKE_WEIGHTS = 2_048
"""Attending to so many tokens takes a layer about as long as its weights do: 3,000 in SmolLM2 135M."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request in tokens."""

    ids: list[int]
    request: ChatRequest

    @property
    def positions(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.ids) + self.request.max_tokens


@dataclass(slots=True, eq=False)
class Row:
    """An answer in the making."""

    prompt: Prompt
    transcript: Transcript
    stretch: Stretch
    patient: bool = False  # others go first
    reason: str | None = None  # why it has ended: "stop" or "length"
    closes: str | None = None  # it was begun to its end, which is only to be judged
    broken: BadModel | None = None  # or that it cannot go on
    reused: int = 0  # tokens whose keys and values were there already
    likelihoods: list[Likelihood] = field(default_factory=list)  # of tokens that were chosen here, if asked for
    gaps: list[float] | None = None  # of each choice, see `sampling.gap`, if watched

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.broken is not None

    @property
    def filled(self) -> int:
        """Tokens whose keys and values are in the memory."""
        return len(self.stretch.tokens)

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.ids)

    @property
    def known(self) -> int:
        """Tokens of the prompt and of the answer as far as it is."""
        return len(self.prompt.ids) + len(self.transcript.tokens)

    def pending(self, most: int) -> list[int]:
        """The next tokens to pass through, at most so many."""
        answered = self.filled - len(self.prompt.ids)
        if answered >= 0:
            return self.transcript.tokens[answered : answered + most]
        ids = self.prompt.ids[self.filled : self.filled + most]
        return ids + self.transcript.tokens[: most - len(ids)]


class Engine:
    """The network with its memory, and the rows in it."""

    def __init__(
        self,
        network: Decoder,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        positions: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._decode = decode
        self._ends = ends  # tokens that end an answer
        self._device = device
        self._group = network.sizes.heads // network.sizes.key_heads
        self._guard = Guard(network.module, device)
        self._memory = network.memory(positions)
        self._stretches = Stretches(positions)

    def hold(self, positions: int) -> None:
        """Have a memory of so many positions instead, before anything joins."""
        del self._memory  # first: there may be no room for two
        self._memory = self._network.memory(positions)
        self._stretches = Stretches(positions)

    @property
    def positions(self) -> int:
        """All that its memory has."""
        return self._stretches.positions

    @property
    def used(self) -> int:
        """Positions that rows have taken."""
        return self._stretches.used

    def join(
        self,
        owner: Hashable,
        prompt: Prompt,
        begun: Sequence[int] = (),
        patient: bool = False,
        watch: bool = False,
    ) -> Row | None:
        """A new row, which goes on from the tokens that were begun; None while there is no room for it."""
        known = [*prompt.ids, *begun]
        source, common = self._stretches.best(owner, known)
        stretch = self._stretches.take(owner, prompt.positions)
        if stretch is None:  # asked first: making text of many tokens again takes its time
            return None
        row = Row(prompt, Transcript(self._decode, prompt.request.stop), stretch, patient)
        row.gaps = [] if watch else None
        for token in begun:
            self._extend(row, token)
            if row.ended:
                break
        row.transcript.take()
        if row.ended and prompt.request.logprobs:
            row.reason, row.closes = None, row.reason
        if row.ended:
            return row
        # The last token is passed through for its logits; with logprobs, all that were begun.
        row.reused = min(common, (len(prompt.ids) if prompt.request.logprobs else row.known) - 1)
        if source is not None and row.reused:
            self._memory.copy(source.start, stretch.start, row.reused)
            stretch.tokens = known[: row.reused]
        return row

    def leave(self, row: Row, keep: bool = True) -> None:
        """A row has ended, or nobody wants it any more. What it filled is kept for rows that begin alike."""
        if keep and row.broken is None:
            self._stretches.keep(row.stretch)
        else:
            self._stretches.free(row.stretch)

    def step(self, rows: Sequence[Row], control: Control) -> None:
        """Take rows that have not ended one step further. Raises Stopped, or what the network raises; then nothing
        has changed."""
        parts = self._parts(rows)
        chosen = [row for row, part in parts if row.filled + len(part.ids) == row.known]
        with self._guard.running(control):
            control.check()
            logits = self._network(self._memory, Pass([part for _, part in parts], self._group, self._device))
            sound: list[bool] = logits.isfinite().all(-1).tolist()
            ends = dict(zip([row for row, _ in parts], accumulate(part.judged for _, part in parts), strict=True))
            last = [ends[row] - 1 for row in chosen]
            positions = [len(row.transcript.tokens) for row in chosen]
            tokens = choose(logits[last], [row.prompt.request for row in chosen], positions)
            for row, part in parts:
                self._note_begun(row, part, logits[ends[row] - part.judged : ends[row]])
                row.stretch.tokens += part.ids
            for row, place, token in zip(chosen, last, tokens, strict=True):
                if row.closes is not None:
                    row.reason = row.closes
                elif sound[place]:
                    self._note(row, logits[place], token)
                    self._extend(row, token)
                else:
                    row.broken = BadModel(
                        "the model gave logits that are no numbers (NaN, infinite): broken weights, or an overflow"
                    )

    def _parts(self, rows: Sequence[Row]) -> list[tuple[Row, Part]]:
        """What the next pass adds to which rows."""
        parts = []
        sizes = [(row.filled, row.known, row.patient) for row in rows]
        for row, count in zip(rows, shares(sizes, self._device), strict=True):
            if count:
                end = row.filled + count
                # Of tokens that were begun elsewhere, too, it is to be said how likely they were.
                first = len(row.prompt.ids) if row.prompt.request.logprobs else row.known
                judged = max(0, end - max(row.filled, first - 1))
                parts.append((row, Part(row.stretch.start, row.filled, row.pending(count), judged)))
        return parts

    def _note_begun(self, row: Row, part: Part, logits: Tensor) -> None:
        """How likely the tokens were that follow the judged ones of a part, as far as they are known."""
        at = row.filled + len(part.ids) - part.judged + 1 - len(row.prompt.ids)
        for place, token in enumerate(row.transcript.tokens[at : at + part.judged] if part.judged else ()):
            row.likelihoods.append(likelihood(logits[place], token, row.prompt.request.top_logprobs))

    def _note(self, row: Row, logits: Tensor, token: int) -> None:
        if row.gaps is not None:
            row.gaps.append(gap(logits, row.prompt.request, len(row.transcript.tokens)))
        if row.prompt.request.logprobs and not self._is_end(row, token):
            row.likelihoods.append(likelihood(logits, token, row.prompt.request.top_logprobs))

    def _is_end(self, row: Row, token: int) -> bool:
        """Whether a token ends an answer, and is none of it."""
        return token in self._ends and not row.prompt.request.ignore_eos

    def _extend(self, row: Row, token: int) -> None:
        """Add a token to an answer, which may end it."""
        if self._is_end(row, token) or row.transcript.add(token, silent=token in self._ends):
            row.reason = "stop"
        elif len(row.transcript.tokens) >= row.prompt.request.max_tokens:
            row.reason = "length"


def shares(rows: Sequence[tuple[int, int, bool]], device: torch.device) -> list[int]:
    """How many tokens of each row the next pass takes, of rows (tokens passed through, tokens known, patient): the
    next one of every answer, and as many of prompts as are quick; the first rows come first."""
    hurried = [(filled, known) for filled, known, patient in rows if not patient]
    who_waits = hurried or [(filled, known) for filled, known, _ in rows]
    answering = any(known - filled == 1 for filled, known in who_waits)
    budget = (CHUNK_BESIDE_TOKENS if answering else CHUNK_TOKENS)[device.type]
    trickle = TRICKLE_TOKENS[device.type]
    taken = []
    for filled, known, patient in rows:
        count = known - filled
        if count > 1:
            left = trickle if patient and hurried else budget
            # The more there are before, that each attends to, the fewer.
            count = min(count, left // (1 + filled // KEYS_LIKE_WEIGHTS))
            budget, trickle = (budget, trickle - count) if patient and hurried else (budget - count, trickle)
        taken.append(count)
    return taken
