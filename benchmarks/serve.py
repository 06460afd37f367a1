"""Requests that arrive one after the other on one executor, beside transformers on the same threads.

Chat requests of mixed lengths are answered by continuous batching; beside it `generate` of transformers answers the
same ones in static batches, all of which it has from the start, of the size that suits it best. Sentences are
embedded beside a plain encoder. Both sides run the model in the same type of numbers. On a machine that does other
things, too, the ratio by processor seconds says more: use one thread then, since several spin while they wait.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.figures import BenchmarkFailed, Figure, Goal, Report, count, parser, ratio, terminal
from benchmarks.machine import Machine
from benchmarks.sentences import sentences
from node.executor import Executor
from node.models import ModelCache, ModelError
from node.work import Finished, Key, Spoken, Work

CHAT, ENCODER = "smollm2", "minilm"
GOALS = {1: Goal(at_least=0.95), 8: Goal(at_least=1.0), 32: Goal(at_least=1.0)}
GAP_S = 0.1  # between two arrivals
TEXTS = 512
BATCH_ITEMS = (16, 32, 64)  # of the plain encoder; the best counts

_TOPICS = ("a parked car", "the sea", "old bridges", "winter bread", "a small town", "night trains", "bees", "snow")


@dataclass(slots=True)
class Listener:
    """Waits for works to end."""

    results: dict[Key, list[bytes]] = field(default_factory=dict)
    tokens_s: dict[Key, list[float]] = field(default_factory=dict)  # when each was told
    ended_s: dict[Key, float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        """It is on the wire at once."""
        event = threading.Event()
        event.set()
        return event

    def spoke(self, spoken: Spoken) -> None:
        """Keep when."""
        self.tokens_s.setdefault(spoken.key, []).extend([time.perf_counter()] * len(spoken.tokens))

    def resident(self, load_s: Mapping[str, float]) -> None:
        """Models that were measured are not looked at again."""

    def finished(self, finished: Finished) -> None:
        """Keep what came."""
        if finished.errors:
            raise BenchmarkFailed(f"an item failed: {finished.errors[0]}")
        with self.changed:
            self.results.setdefault(finished.key, []).extend(finished.results)
            if finished.last:
                self.ended_s[finished.key] = time.perf_counter()
                self.changed.notify_all()

    def wait_for(self, keys: Sequence[Key]) -> None:
        """Until all have ended."""
        with self.changed:
            if not self.changed.wait_for(lambda: all(key in self.ended_s for key in keys), 900):
                raise BenchmarkFailed("an executor did not end its work within 15 minutes")


@dataclass(frozen=True, slots=True)
class Served:
    """What one round of requests gave."""

    tokens: int
    took_s: float
    processor_s: float  # of this process, in which nothing else computes
    rows: float = 0.0  # mean in a step
    first_s: float = 0.0  # mean time to the first token

    @property
    def tokens_per_s(self) -> float:
        """Of all answers together."""
        return self.tokens / self.took_s


def requests(number: int, seed: int) -> list[bytes]:
    """Chat requests with prompts of some 40 to 200 tokens and answers of at most 16 to 96."""
    rng = random.Random(seed)
    made = []
    for _ in range(number):
        notes = " ".join(
            f"Note {n}: {rng.choice(_TOPICS)} and {rng.choice(_TOPICS)}." for n in range(rng.randint(1, 14))
        )
        content = f"{notes} Write a long story about {rng.choice(_TOPICS)}."
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": rng.randint(16, 96)}
        made.append(json.dumps(body).encode())
    return made


def ours(executor: Executor, listener: Listener, payloads: Sequence[bytes], turn: int) -> Served:
    """Answer requests that arrive one after the other."""
    keys = [(turn, len(payloads), number) for number in range(len(payloads))]
    steps, stepped = executor.stepped
    began_s, processor_s = time.perf_counter(), time.process_time()
    arrived_s = {}
    for number, (key, payload) in enumerate(zip(keys, payloads, strict=True)):
        threading.Event().wait(max(0.0, began_s + number * GAP_S - time.perf_counter()))
        arrived_s[key] = time.perf_counter()
        executor.submit(Work(key, 0, CHAT, [payload], (0,), True, False, streamed=True))
    listener.wait_for(keys)
    took_s = max(listener.ended_s[key] for key in keys) - began_s
    processor_s = time.process_time() - processor_s
    tokens = sum(json.loads(listener.results[key][0])["completion_tokens"] for key in keys)
    rows = (executor.stepped[1] - stepped) / (executor.stepped[0] - steps)
    return Served(
        tokens, took_s, processor_s, rows, mean(listener.tokens_s[key][0] - arrived_s[key] for key in keys)
    )


class Transformers:
    """The same model by transformers' own loop."""

    def __init__(self, cache: ModelCache, dtype: str) -> None:
        import torch
        from transformers import LlamaForCausalLM
        from transformers.utils import logging

        from node.workloads import load
        from node.workloads.generate import Generate

        logging.disable_progress_bar()
        self._torch = torch
        numbers = torch.float32 if dtype == "fp32" else torch.bfloat16
        self._model = LlamaForCausalLM.from_pretrained(
            cache.get(CHAT).directory, dtype=numbers, attn_implementation="sdpa", local_files_only=True
        ).eval()
        workload = load(cache, CHAT, "cpu", dtype)
        assert isinstance(workload, Generate), "it is a chat model"
        self._reader = workload

    def serve(self, payloads: Sequence[bytes], batch: int) -> Served:
        """Answer them all, the longest answers first, in batches of so many."""
        from node.workloads import Control
        from node.workloads.engine import Prompt

        prompts = [prompt for prompt in self._reader.prepare(payloads, Control()) if isinstance(prompt, Prompt)]
        prompts.sort(key=lambda prompt: -prompt.request.max_tokens)
        began_s, processor_s, tokens = time.perf_counter(), time.process_time(), 0
        for first in range(0, len(prompts), batch):
            tokens += self._generate(prompts[first : first + batch])
        return Served(tokens, time.perf_counter() - began_s, time.process_time() - processor_s)

    def tell(self, payload: bytes) -> list[float]:
        """Answer one: seconds from its beginning to each token."""
        from node.workloads import Control
        from node.workloads.engine import Prompt

        (prompt,) = self._reader.prepare([payload], Control())
        assert isinstance(prompt, Prompt), "a request of a benchmark is sound"
        told_s: list[float] = []
        began_s = time.perf_counter()
        with self._torch.inference_mode():
            self._model.generate(
                self._torch.tensor([prompt.ids]),
                attention_mask=self._torch.ones(1, len(prompt.ids), dtype=self._torch.long),
                max_new_tokens=prompt.request.max_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=_Streamer(told_s),
            )
        return [told - began_s for told in told_s[1:]]

    def _generate(self, prompts: Sequence[Any]) -> int:
        torch, longest = self._torch, max(len(prompt.ids) for prompt in prompts)
        ids = torch.tensor([[0] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts])
        most = max(prompt.request.max_tokens for prompt in prompts)
        with torch.inference_mode():
            answers = self._model.generate(
                ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0
            )
        told, end = 0, self._model.config.eos_token_id
        for prompt, row in zip(prompts, answers[:, longest:].tolist(), strict=True):
            kept = row[: prompt.request.max_tokens]
            told += kept.index(end) if end in kept else len(kept)
        return told


class _Streamer:
    """What `generate` tells its tokens to, one by one: first the prompt, then each token of the answer."""

    def __init__(self, told_s: list[float]) -> None:
        self._told_s = told_s

    def put(self, tokens: object) -> None:
        self._told_s.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("serve", str(__doc__).partition("\n")[0])
    options.add_argument("--repeats", type=count, default=3, metavar="N", help="of every pair (3)")
    options.add_argument("--threads", type=count, default=2, metavar="N", help="of torch, on both sides (2)")
    options.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="on both sides (fp32)")
    options.add_argument("--requests", type=count, nargs="+", default=[1, 8, 32], metavar="N", help="(1 8 32)")
    options.add_argument("--no-encoder", action="store_true", help="chat only")
    given = options.parse_args(arguments)
    machine, console, cache, listener = Machine.here(), terminal(), ModelCache.of_user(), Listener()
    figures: list[Figure] = []
    notes: list[str] = []
    with console.status("loading") as status:
        executor = Executor(
            listener,
            cache=cache,
            models=[CHAT] if given.no_encoder else [CHAT, ENCODER],
            device="cpu",
            dtype=given.dtype,
            threads=given.threads,
        )
        try:
            executor.start()
            theirs = Transformers(cache, given.dtype)
            for number in given.requests:
                _chat(number, given.repeats, executor, listener, theirs, figures, notes, status.update)
            if not given.no_encoder:
                _encoder(cache, given, executor, listener, figures, notes, status.update)
        except ModelError as error:
            raise BenchmarkFailed(str(error)) from None
        finally:
            executor.close()
    layout = (
        f"one executor, {given.threads} threads, {given.dtype}, beside transformers in the same process, in turns"
    )
    settings = {"repeats": given.repeats, "threads": given.threads, "dtype": given.dtype, "gap_s": GAP_S}
    Report("serve", layout, settings, machine, figures, notes).publish(console, given.json)
    return 0


def _chat(
    number: int,
    repeats: int,
    executor: Executor,
    listener: Listener,
    theirs: Transformers,
    figures: list[Figure],
    notes: list[str],
    tell: Callable[[str], None],
) -> None:
    """Pairs of rounds with so many requests."""
    tell(f"{number} requests: the best static batch")
    payloads = requests(number, seed=number)
    sizes = sorted({number, max(1, number // 2)})
    trials = {size: theirs.serve(payloads, size).tokens_per_s for size in sizes}
    best = max(sizes, key=trials.__getitem__)
    mine, plain = [], []
    for turn in range(repeats):
        tell(f"{number} requests: {turn + 1} of {repeats}")
        mine.append(ours(executor, listener, requests(number, seed=number + 1000 * turn), turn))
        plain.append(theirs.serve(requests(number, seed=number + 1000 * turn), best))
    rates = [served.tokens_per_s for served in mine], [served.tokens_per_s for served in plain]
    figures.append(Figure(f"{number} requests: continuous", "tokens/s", rates[0]))
    figures.append(Figure(f"{number} requests: generate, batches of {best}", "tokens/s", rates[1]))
    figures.append(ratio(f"{number} requests: ours by theirs", *rates, GOALS.get(number)))
    spent = [[served.tokens / served.processor_s for served in side] for side in (mine, plain)]
    figures.append(ratio(f"{number} requests: the same by processor seconds", spent[0], spent[1]))
    notes.append(
        f"{number} requests: {mean(served.rows for served in mine):.1f} rows in a step on average, first token "
        f"after {mean(served.first_s for served in mine):.2f} s, {sum(served.tokens for served in mine):,} tokens; "
        f"generate told {sum(served.tokens for served in plain):,}"
    )


def _encoder(
    cache: ModelCache,
    given: Any,
    executor: Executor,
    listener: Listener,
    figures: list[Figure],
    notes: list[str],
    tell: Callable[[str], None],
) -> None:
    """Pairs of rounds with the same sentences."""
    from benchmarks.embedder import Embedder

    plain = Embedder(cache.get(ENCODER).directory, "cpu", given.dtype, given.threads)
    texts = [text.strip() for text in sentences(TEXTS)]

    def plainly(batch: int) -> float:
        began_s = time.perf_counter()
        plain.embed(texts, batch)
        return len(texts) / (time.perf_counter() - began_s)

    tell("sentences: the best batch")
    trials = {size: plainly(size) for size in BATCH_ITEMS}
    best = max(BATCH_ITEMS, key=trials.__getitem__)
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(given.repeats):
        tell(f"sentences: {turn + 1} of {given.repeats}")
        key, began_s = ("sentences", turn), time.perf_counter()
        inputs = [text.encode() for text in texts]
        executor.submit(Work(key, 0, ENCODER, inputs, range(len(inputs)), False, False))
        listener.wait_for([key])
        rates[0].append(len(texts) / (listener.ended_s[key] - began_s))
        rates[1].append(plainly(best))
    figures.append(Figure(f"{TEXTS} sentences: executor", "items/s", rates[0]))
    figures.append(Figure(f"{TEXTS} sentences: plain, batches of {best}", "items/s", rates[1]))
    figures.append(ratio("sentences: ours by theirs", *rates, Goal(at_least=0.95)))
