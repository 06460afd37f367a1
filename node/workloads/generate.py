"""Generate: a request in, messages or a raw prompt, its answer out, by continuous batching: see `engine`.

In fp32 the answer does not depend on the company a row has, nor on what of its prompt was there already, but for
ties within rounding.
"""

import json
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from node.models import CachedModel, ModelError
from node.roofline import Cost, Operation, Phase
from node.workloads import BadInput, BadModel, Control, Outcome
from node.workloads.chat import DEFAULT_TOKENS, ChatRequest, answer, read_request
from node.workloads.decoder import Decoder, load_decoder
from node.workloads.device import device_named, dtype_named, free_bytes
from node.workloads.engine import Engine, Prompt, Row, shares
from node.workloads.sampling import Likelihood
from node.workloads.sizes import decoding
from node.workloads.transcript import Passage
from node.workloads.vocabulary import Vocabulary, vocabulary_of
from node.workloads.weights import config_of

MOST_ROWS = {"cpu": 32, "cuda": 128}
"""Rows that step together, at most. Measured for `smollm2` on two cores: tokens a second still rise up to 32; the
GPU's is assumed."""

ORDINARY_ROWS = {"cpu": 8, "cuda": 64}
"""Rows of the micro-batch by which a speed is told, and of a batch work's that are announced ahead. Assumed."""

POSITIONS = {"cpu": 16_384, "cuda": 131_072}
"""Positions, over all rows, whose keys and values are held at once, at most: 755 MB of fp32 for `smollm2`, of which
a system gives only what is used."""

MEMORY_PART = 0.25
"""And no more than this part of the memory that is free when a model is loaded."""

SPARE = 0.25
"""The part of the positions that patient rows leave to others, but for the first of them. Assumed."""

_ORDINARY = b'{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a reference answer."""

    text: str  # the answer before this token
    token: int | None  # None: it ended the answer, and is not told
    gap: float  # see `sampling.gap`


class Generate:
    """A decoder with its tokenizer."""

    kind = "generate"
    computes = True
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def __init__(
        self,
        network: Decoder,
        vocabulary: Vocabulary,
        ends: frozenset[int],
        device: torch.device,
    ) -> None:
        self._network = network
        self._vocabulary = vocabulary
        self._device = device
        self._width = 2 * network.sizes.layers * network.sizes.key_heads * network.sizes.head_dim
        self.batch_items = ORDINARY_ROWS[device.type]
        self.most_rows = MOST_ROWS[device.type]
        bytes_each = self._width * next(network.module.parameters()).element_size()
        positions = max(1, min(POSITIONS[device.type], int(MEMORY_PART * free_bytes(device) / bytes_each)))
        self.engine = Engine(network, vocabulary.text, ends, positions, device)
        self.context_tokens = min(network.context, positions)

    @property
    def positions(self) -> int:
        """Positions, over all rows, whose keys and values are held at once."""
        return self.engine.positions

    def ordinary_positions(self) -> int:
        """Those of an ordinary question with its answer. Raises BadInput when the template refuses that."""
        return len(self._ids(read_request(_ORDINARY))) + DEFAULT_TOKENS

    @property
    def values(self) -> float:
        """Numbers that it holds at most: weights, keys and values."""
        return float(self._network.parameters + self.positions * self._width)

    def hold(self, positions: int) -> None:
        """Hold keys and values of so many positions, before anything joins: a longer request is refused."""
        self.engine.hold(positions)
        self.context_tokens = min(self._network.context, positions)

    def limit(self, values: float) -> None:
        """Hold no more than so many numbers, weights and keys and values together."""
        positions = min(self.engine.positions, int((values - self._network.parameters) / self._width))
        if positions < 1:
            needed = self._network.parameters + self._width
            raise ModelError(f"a memory of {values:,.0f} numbers is too small for this model; it takes {needed:,}")
        if positions < self.positions:
            self.hold(positions)

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[Prompt | BadInput]:
        """Read requests, and put those with messages through the model's chat template."""
        prepared: list[Prompt | BadInput] = []
        for payload in inputs:
            control.check()
            try:
                prepared.append(self._prompt(read_request(payload)))
            except BadInput as bad:
                prepared.append(bad)
        return prepared

    def plan(self, prepared: Sequence[Prompt]) -> list[list[int]]:
        """Longest first, in micro-batches of ordinary size: for what is run by itself."""
        order = sorted(range(len(prepared)), key=lambda index: -prepared[index].positions)
        return [order[first : first + self.batch_items] for first in range(0, len(order), self.batch_items)]

    def join(self, owner: Hashable, prepared: Prompt, begun: Sequence[int], patient: bool = False) -> Row | None:
        """Begin an answer, or go on with one; None while there is no room."""
        left = self.engine.positions - self.engine.used - prepared.positions
        if patient and self.engine.used and left < SPARE * self.engine.positions:
            return None
        return self.engine.join(owner, prepared, begun, patient)

    def step(self, rows: Sequence[Row], control: Control) -> None:
        """The next token of each row, or a chunk of its prompt."""
        self.engine.step(rows, control)

    def leave(self, row: Row) -> None:
        """A row has ended, or nobody waits for it any more."""
        self.engine.leave(row)

    def outcome(self, row: Row) -> bytes | BadModel:
        """The answer."""
        if row.broken is not None:
            return row.broken
        assert row.reason is not None, "it has ended"
        tokens, request = row.transcript.tokens, row.prompt.request
        told = (
            [self._told(*pair) for pair in zip(tokens, row.likelihoods, strict=True)] if request.logprobs else None
        )
        return answer(row.transcript.text, row.reason, row.prompt_tokens, len(tokens), told)

    def likelihoods(self, row: Row, passage: Passage) -> tuple[bytes, ...]:
        """An entry of OpenAI's `logprobs.content` for each token of a passage, if they were asked for."""
        if not row.prompt.request.logprobs:
            return ()
        known = row.likelihoods[passage.first : passage.first + len(passage.tokens)]
        pairs = zip(passage.tokens, known, strict=True)
        return tuple(json.dumps(self._told(*pair), ensure_ascii=False).encode() for pair in pairs)

    def run(self, prepared: Sequence[Prompt], control: Control) -> Sequence[Outcome]:
        """Answer so many prompts by themselves. Raises BadModel when one cannot be answered."""
        results: list[Outcome] = [None] * len(prepared)
        for item, row in self._generate(prepared, control, watch=False):
            outcome = self.outcome(row)
            if isinstance(outcome, BadModel):
                raise outcome
            results[item] = outcome
        return results

    def trace(self, payload: bytes) -> tuple[bytes, tuple[Step, ...]]:
        """Answer one request alone, and say at each token how near the choice was. Raises BadInput."""
        prompt = self._prompt(read_request(payload))
        ((_, row),) = self._generate([prompt], Control(), watch=True)
        outcome, gaps = self.outcome(row), row.gaps or []
        if isinstance(outcome, BadModel):
            raise outcome
        tokens = row.transcript.tokens
        texts = [self.text(tokens[:count]) for count in range(len(gaps))]
        told = [*tokens, None][: len(gaps)]
        return outcome, tuple(Step(*step) for step in zip(texts, told, gaps, strict=True))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without marks."""
        return self._vocabulary.text(tokens)

    def _generate(self, prompts: Sequence[Prompt], control: Control, watch: bool) -> list[tuple[int, Row]]:
        """Rows that have ended, each with the place of its prompt; dropped ones are missing."""
        ended: list[tuple[int, Row]] = []
        waiting = deque(item for item in range(len(prompts)) if control.wanted(item))
        rows: dict[int, Row] = {}
        try:
            while waiting or rows:
                while waiting and len(rows) < self.most_rows:
                    item = waiting[0]
                    row = self.engine.join(control, prompts[item], watch=watch)
                    if row is None:
                        assert rows, "what no empty memory has room for is refused"
                        break
                    rows[item] = row
                    waiting.popleft()
                self.engine.step(list(rows.values()), control)
                for item, row in list(rows.items()):
                    if row.ended:
                        ended.append((item, row))
                    if row.ended or not control.wanted(item):
                        self.engine.leave(rows.pop(item), keep=False)
        finally:
            for row in rows.values():
                self.engine.leave(row, keep=False)
        return ended

    def cost(self, prepared: Sequence[Prompt], outcomes: Sequence[Any]) -> Cost:
        """Prompts in chunks, and a step for each token of the answers, over the rows that go on."""
        steps = [_steps(outcome) for outcome in outcomes if isinstance(outcome, bytes)]
        return self._cost([len(prompt.ids) for prompt in prepared], steps or [0])

    def ordinary_cost(self) -> Cost:
        """Of short prompts with answers of ordinary length."""
        (prompt,) = self.prepare([_ORDINARY], Control())
        assert isinstance(prompt, Prompt), "the model's template takes a question"
        return self._cost([len(prompt.ids)] * self.batch_items, [DEFAULT_TOKENS - 1] * self.batch_items)

    def step_cost(self, rows: Sequence[Row]) -> Cost:
        """What the next step of these rows asks of any computer."""
        sizes = [(row.filled, row.known, row.patient) for row in rows]
        phase, made = self._step_cost(sizes, shares(sizes, self._device))
        return Cost(self._network.parameters, self.engine.used * self._width, len(rows), {}, {phase: made})

    def _step_cost(
        self, rows: Sequence[tuple[int, int, bool]], counts: Sequence[int]
    ) -> tuple[Phase, tuple[Operation, ...]]:
        parts = [(count, filled) for (filled, _, _), count in zip(rows, counts, strict=True) if count]
        ends = sum(filled + count == known for (filled, known, _), count in zip(rows, counts, strict=True))
        answers = any(known - filled == 1 for filled, known, _ in rows)
        return Phase.DECODE if answers else Phase.PREFILL, decoding(self._network.sizes, parts, ends)

    def _cost(self, prompts: Sequence[int], steps: Sequence[int]) -> Cost:
        """Of prompts of so many tokens that begin together, and so many steps of each row."""
        made: dict[Phase, list[Operation]] = {Phase.PREFILL: [], Phase.DECODE: []}
        filled = [0] * len(prompts)
        totals = [prompt + count for prompt, count in zip(prompts, steps, strict=True)]
        while going_on := [row for row, total in enumerate(totals) if filled[row] < total]:
            sizes = [(filled[row], max(prompts[row], filled[row] + 1), False) for row in going_on]
            counts = shares(sizes, self._device)
            phase, step = self._step_cost(sizes, counts)
            made[phase] += step
            for row, count in zip(going_on, counts, strict=True):
                filled[row] += count
        return Cost(
            self._network.parameters,
            float(sum(totals) * self._width),
            len(prompts),
            {Phase.PREFILL: sum(prompts), Phase.DECODE: sum(steps)},
            {phase: tuple(each) for phase, each in made.items()},
        )

    def items_per_s(self) -> float:
        """Speed on short prompts with answers of ordinary length, from a few of their steps."""
        steps, rows = 3, self.batch_items
        body = json.loads(_ORDINARY)
        timings = []
        for tokens in (1, 1, 1 + steps):
            payload = json.dumps(body | {"max_tokens": tokens}).encode()
            prompts = [item for item in self.prepare([payload] * rows, Control()) if isinstance(item, Prompt)]
            began_s = time.perf_counter()
            self.run(prompts, Control())
            timings.append(time.perf_counter() - began_s)
        step_s = max(timings[2] - timings[1], 1e-6) / steps
        return rows / (timings[1] + (DEFAULT_TOKENS - 1) * step_s)

    def _ids(self, request: ChatRequest) -> list[int]:
        match request.prompt:
            case None:
                ids = self._vocabulary.prompt(request.messages)
            case str(text):
                ids = self._vocabulary.raw(text)
            case tokens:
                ids = list(tokens)
        if not ids:  # it would step for ever, and never say anything
            raise BadInput(
                "the prompt has no token"
                if request.prompt is not None
                else "the model's chat template makes nothing of these messages"
            )
        self._vocabulary.require_known(ids, self._network.sizes.vocabulary)
        return ids

    def _prompt(self, request: ChatRequest) -> Prompt:
        ids = self._ids(request)
        prompt = Prompt(ids, request)
        if prompt.positions > self.context_tokens:
            raise BadInput(
                f"the prompt has {len(ids)} tokens and max_tokens is {request.max_tokens}, together more than"
                f" {self.context_tokens}; shorten one of them"
            )
        return prompt

    def _told(self, token: int, likelihood: Likelihood) -> dict[str, Any]:
        """One token's entry of OpenAI's `logprobs.content`."""
        entry = self._vocabulary.entry(token) | {"logprob": likelihood.chosen}
        others = [self._vocabulary.entry(other) | {"logprob": odds} for other, odds in likelihood.top]
        return entry | {"top_logprobs": others}


def _steps(result: bytes) -> int:
    """How many tokens of a row were passed through after its prompt: all but the last one, or all if one more,
    which is told to nobody, ended it."""
    read = json.loads(result)
    tokens: int = read["completion_tokens"]
    return tokens if read["finish_reason"] == "stop" else max(tokens - 1, 0)


def load(model: CachedModel, device: str, dtype: str) -> Generate:
    """Load a chat model. Raises ModelError."""
    place = device_named(device)
    network = load_decoder(model, dtype_named(dtype, place, model), place)
    vocabulary = vocabulary_of(model)
    vocabulary.require_template(model.name)
    return Generate(network, vocabulary, _ends(model), place)


def _ends(model: CachedModel) -> frozenset[int]:
    """The tokens that end an answer. Raises ModelError: without them it would go on for as long as it may."""
    ends: set[int] = set()
    for file in ("config.json", "generation_config.json"):
        told = config_of(model, file).get("eos_token_id")
        for end in told if isinstance(told, list) else [] if told is None else [told]:
            if not isinstance(end, int):
                raise ModelError(f"{file} of {model.name} has the eos_token_id {end!r}, which is no token's number")
            ends.add(end)
    return frozenset(ends)
