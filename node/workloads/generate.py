"""Generate: a chat request in, its answer out, by a decode loop of our own.

Rows of a micro-batch share their steps: prompts are padded on the left, a row that ends is taken out, and the
keys and values of all rows lie in one buffer that is made once. In fp32 the answer does not depend on the company
a row has, but for ties within rounding.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from node.models import CachedModel
from node.roofline import Cost, Operation, Phase
from node.workloads import BadInput, Control, Outcome
from node.workloads.chat import DEFAULT_TOKENS, ChatRequest, answer, read_request
from node.workloads.device import Guard, device_named, dtype_named, on_device
from node.workloads.llama import KeyValues, Llama, LlamaShape, operations
from node.workloads.template import ChatTemplate, template_of
from node.workloads.transcript import Transcript
from node.workloads.weights import config_of, load_network

BATCH_ROWS = {"cpu": 8, "cuda": 64}
"""Rows that step together. Assumed: on a CPU steps grow long beyond it."""

CACHED_TOKENS = {"cpu": 8_192, "cuda": 131_072}
"""Positions, over all rows, whose keys and values are held at once: 377 MB of fp32 for `smollm2` on a CPU."""

PREFILL_TOKENS = {"cpu": 256, "cuda": 4_096}
"""Tokens of all rows in one forward pass over prompts, so that no layer takes long."""

KEYS_LIKE_WEIGHTS = 2_048
"""Attending to so many tokens takes a layer about as long as its weights do: 3,000 in SmolLM2 135M."""

LONGEST_CONTEXT = 8_192
"""Tokens of a prompt and its answer together, if the model itself does not hold fewer."""

_ORDINARY = b'{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request in tokens."""

    ids: list[int]
    request: ChatRequest

    @property
    def positions(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.ids) + self.request.max_tokens


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a reference answer."""

    text: str  # the answer before this token
    gap: float  # between the two largest logits


@dataclass(slots=True)
class _Row:
    """An answer in the making."""

    item: int  # position in the run
    prompt: Prompt
    transcript: Transcript
    gaps: list[float] = field(default_factory=list)


class Generate:
    """A Llama decoder with its tokenizer."""

    kind = "generate"
    computes = True

    def __init__(
        self,
        network: Llama,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        ends: frozenset[int],
        context: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._template = template
        self._ends = ends  # tokens that end an answer
        self._context = context
        self._device = device
        self._guard = Guard(network, device)
        self._parameters = sum(parameter.numel() for parameter in network.parameters())
        self.batch_items = BATCH_ROWS[device.type]

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[Prompt | BadInput]:
        """Read requests, and put their messages through the model's chat template."""
        prepared: list[Prompt | BadInput] = []
        for payload in inputs:
            control.check()
            try:
                prepared.append(self._prompt(read_request(payload)))
            except BadInput as bad:
                prepared.append(bad)
        return prepared

    def plan(self, prepared: Sequence[Prompt]) -> list[list[int]]:
        """Longest first, as many rows as step well together and fit the buffer."""
        most_rows, most_positions = BATCH_ROWS[self._device.type], CACHED_TOKENS[self._device.type]
        batches: list[list[int]] = []
        prompt = reply = 0
        for index in sorted(range(len(prepared)), key=lambda index: -prepared[index].positions):
            item = prepared[index]
            wider = max(prompt, len(item.ids)) + max(reply, item.request.max_tokens)
            if not batches or len(batches[-1]) == most_rows or wider * (len(batches[-1]) + 1) > most_positions:
                batches.append([])
                prompt = reply = 0
            prompt, reply = max(prompt, len(item.ids)), max(reply, item.request.max_tokens)
            batches[-1].append(index)
        return batches

    def run(self, prepared: Sequence[Prompt], control: Control) -> Sequence[Outcome]:
        """Answer so many prompts together."""
        results: list[Outcome] = [None] * len(prepared)
        for row, reason in self._generate(prepared, control, watch=False):
            results[row.item] = self._answer(row, reason)
        return results

    def trace(self, payload: bytes) -> tuple[bytes, tuple[Step, ...]]:
        """Answer one request alone, and say at each token how near the choice was. Raises BadInput."""
        prompt = self._prompt(read_request(payload))
        ((row, reason),) = self._generate([prompt], Control(), watch=True)
        texts = [self.text(row.transcript.tokens[:count]) for count in range(len(row.gaps))]
        return self._answer(row, reason), tuple(Step(*step) for step in zip(texts, row.gaps, strict=True))

    def cost(self, prepared: Sequence[Prompt], outcomes: Sequence[Any]) -> Cost:
        """Prompts in chunks, then a step for each token of the answers, over the rows that go on."""
        steps = [_steps(outcome) for outcome in outcomes if isinstance(outcome, bytes)]
        return self._cost([len(prompt.ids) for prompt in prepared], steps or [0])

    def ordinary_cost(self) -> Cost:
        """Of short prompts with answers of ordinary length."""
        (prompt,) = self.prepare([_ORDINARY], Control())
        assert isinstance(prompt, Prompt), "the model's template takes a question"
        return self._cost([len(prompt.ids)] * self.batch_items, [DEFAULT_TOKENS - 1] * self.batch_items)

    def _cost(self, prompts: Sequence[int], steps: Sequence[int]) -> Cost:
        """Of prompts of so many tokens, and so many steps of each row."""
        shape, rows, longest = self._network.shape, len(prompts), max(prompts)
        chunk = max(16, PREFILL_TOKENS[self._device.type] // rows)
        prefill: list[Operation] = []
        for first in range(0, longest, chunk):
            last = first + chunk >= longest
            prefill += operations(shape, rows, min(chunk, longest - first), first, last)
        decode: list[Operation] = []
        begun = 0
        for end in sorted(set(steps) - {0}):
            going_on = sum(count >= end for count in steps)
            decode += operations(shape, going_on, 1, longest + (begun + end - 1) / 2, True, end - begun)
            begun = end
        width = 2.0 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
        return Cost(
            self._parameters,
            rows * (longest + max(steps)) * width,
            rows,
            {Phase.PREFILL: rows * longest, Phase.DECODE: sum(steps)},
            {Phase.PREFILL: tuple(prefill), Phase.DECODE: tuple(decode)},
        )

    def items_per_s(self) -> float:
        """Speed on short prompts with answers of ordinary length, from a few of their steps."""
        steps = 3
        body = json.loads(_ORDINARY)
        timings = []
        for tokens in (1, 1, 1 + steps):
            payload = json.dumps(body | {"max_tokens": tokens}).encode()
            prompts = [item for item in self.prepare([payload] * 4, Control()) if isinstance(item, Prompt)]
            began_s = time.perf_counter()
            self.run(prompts, Control())
            timings.append(time.perf_counter() - began_s)
        step_s = max(timings[2] - timings[1], 1e-6) / steps
        return 4 / (timings[1] + (DEFAULT_TOKENS - 1) * step_s)

    def _prompt(self, request: ChatRequest) -> Prompt:
        ids = self._tokenizer.encode(self._template.render(request.messages), add_special_tokens=False).ids
        prompt = Prompt(ids, request)
        if prompt.positions > self._context:
            raise BadInput(
                f"the prompt has {len(ids)} tokens and max_tokens is {request.max_tokens}, together more than"
                f" {self._context}; shorten one of them"
            )
        return prompt

    def _generate(self, prompts: Sequence[Prompt], control: Control, watch: bool) -> list[tuple[_Row, str]]:
        """Rows with the reason that ended each; dropped ones are missing."""
        finished: list[tuple[_Row, str]] = []
        rows = []
        for item, prompt in enumerate(prompts):
            row = _Row(item, prompt, Transcript(self.text, prompt.request.stop))
            if reason := self._resume(row, control.begun.get(control.first + item, ())):
                finished.append((row, reason))
                self._speak(row, control, ended=True)
            elif control.wanted(item):
                rows.append(row)
        if not rows:
            return finished
        with self._guard.running(control):
            batch = _Batch(rows, self._network, self._device)
            logits = batch.prefill(control)
            while True:
                tokens = self._choose(logits, rows, watch)
                keep = []
                for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                    reason = self._extend(row, token)
                    self._speak(row, control, ended=reason is not None)
                    if reason:
                        finished.append((row, reason))
                    elif control.wanted(row.item):
                        keep.append(index)
                if not keep:
                    return finished
                if len(keep) < len(rows):
                    rows, tokens = [rows[index] for index in keep], [tokens[index] for index in keep]
                    batch.keep(keep)
                control.check()
                logits = batch.step(tokens)

    def _choose(self, logits: Tensor, rows: Sequence[_Row], watch: bool) -> list[int]:
        """The next token of each row: logits [B, V]."""
        if watch:
            for row, (first, second) in zip(rows, logits.topk(2).values.tolist(), strict=True):
                row.gaps.append(first - second)
        tokens: list[int] = logits.argmax(-1).tolist()
        for index, row in enumerate(rows):
            if row.prompt.request.temperature > 0:
                tokens[index] = sample(logits[index].cpu(), row.prompt.request, len(row.transcript.tokens))
        return tokens

    def _extend(self, row: _Row, token: int) -> str | None:
        """Add a token to a row; the reason when that ends it."""
        if token in self._ends:
            return "stop"
        if row.transcript.add(token):
            return "stop"
        return "length" if len(row.transcript.tokens) >= row.prompt.request.max_tokens else None

    def _resume(self, row: _Row, tokens: Sequence[int]) -> str | None:
        """Take tokens that another car has said; the reason when they are all there is."""
        reasons = (self._extend(row, token) for token in tokens)
        reason = next(filter(None, reasons), None)
        row.transcript.take()
        return reason

    def _speak(self, row: _Row, control: Control, ended: bool) -> None:
        if control.speak is not None and control.wanted(row.item):
            passage = row.transcript.take(ended)
            if passage.tokens or passage.text:
                control.speak(control.first + row.item, passage)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without marks."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _answer(self, row: _Row, reason: str) -> bytes:
        transcript = row.transcript
        return answer(transcript.text, reason, len(row.prompt.ids), len(transcript.tokens))


class _Batch:
    """The tensors of rows that step together. Positions count from the first real token of each row."""

    def __init__(self, rows: Sequence[_Row], network: Llama, device: torch.device) -> None:
        self._network = network
        self._device = device
        known = [row.prompt.ids + row.transcript.tokens for row in rows]
        self._longest = max(map(len, known))
        capacity = self._longest + max(
            row.prompt.positions - len(ids) for row, ids in zip(rows, known, strict=True)
        )
        padding = torch.tensor([self._longest - len(ids) for ids in known])
        padded = [[0] * (self._longest - len(ids)) + ids for ids in known]
        self._ids = on_device(torch.tensor(padded), device)  # [B, longest]
        places = torch.arange(capacity)
        self._positions = on_device((places - padding[:, None]).clamp(min=0), device)  # [B, capacity]
        self._real = on_device(places >= padding[:, None], device)  # [B, capacity]
        self._even = not padding.any()
        like = network.model.embed_tokens.weight
        self._memory = KeyValues(network.shape, len(rows), capacity, like)

    def prefill(self, control: Control) -> Tensor:
        """Pass the prompts through in chunks; the logits after their last tokens, [B, V]."""
        rows = self._ids.shape[0]
        while (first := self._memory.filled) + (chunk := self._chunk(rows, first)) < self._longest:
            control.check()
            self._forward(self._ids[:, first : first + chunk])
        control.check()
        return self._logits(self._forward(self._ids[:, self._memory.filled :]))

    def _chunk(self, rows: int, filled: int) -> int:
        """Tokens of each row in the next pass: the fewer, the more there are before that each attends to."""
        return max(16, PREFILL_TOKENS[self._device.type] // rows // (1 + filled // KEYS_LIKE_WEIGHTS))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Pass one token of each row through; the logits after it, [B, V]."""
        return self._logits(self._forward(on_device(torch.tensor(tokens)[:, None], self._device)))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        kept = torch.tensor(rows, device=self._device)
        self._positions, self._real = self._positions[kept], self._real[kept]
        self._memory.keep(rows)

    def _forward(self, ids: Tensor) -> Tensor:
        """ids [B, Q] -> hidden states [B, Q, D]"""
        first, end = self._memory.filled, self._memory.filled + ids.shape[1]
        hidden: Tensor = self._network(ids, self._positions[:, first:end], self._mask(first, end), self._memory)
        return hidden

    def _mask(self, first: int, end: int) -> Tensor | None:
        """Which keys each query sees, [B, 1, Q, K]: real ones up to its own place, and always itself, since a
        query that sees nothing gives no number."""
        if self._even and end - first == 1:
            return None
        keys = torch.arange(end, device=self._device)
        queries = keys[first:, None]
        return (keys <= queries) & (self._real[:, None, None, :end] | (keys == queries))

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._network.logits(hidden[:, -1])


def _steps(result: bytes) -> int:
    """How many tokens of a row were passed through after its prompt: all but the last one, or all if one more,
    which is told to nobody, ended it."""
    read = json.loads(result)
    tokens: int = read["completion_tokens"]
    return tokens if read["finish_reason"] == "stop" else max(tokens - 1, 0)


def sample(logits: Tensor, request: ChatRequest, position: int) -> int:
    """Draw a token by Gumbel noise keyed on seed and position, so that every attempt draws the same: logits [V]."""
    logits = logits / request.temperature
    if request.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(0).cumsum(0) - ordered.softmax(0)
        logits[order[before >= max(request.top_p, 1e-6)]] = -torch.inf
    generator = torch.Generator().manual_seed((request.seed * 1_000_003 + position) % (1 << 63))
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return int((logits + noise).argmax())


def load(model: CachedModel, device: str, dtype: str) -> Generate:
    """Load a chat model. Raises ModelError."""
    place = device_named(device)
    config = config_of(model)
    network = load_network(lambda: Llama(LlamaShape.of(config)), model, dtype_named(dtype, place, model), place)
    tokenizer = Tokenizer.from_file(str(model.directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    named = [config_of(model, name).get("eos_token_id") for name in ("config.json", "generation_config.json")]
    ends = {end for ends in named for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
    context = min(int(config["max_position_embeddings"]), LONGEST_CONTEXT)
    return Generate(network, tokenizer, template_of(model), frozenset(ends), context, place)
