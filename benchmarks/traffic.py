"""Time to the first token and between tokens of one executor, at parts of its capacity, in bursts as of a trace.

Capacity is measured in the same run: the same mix of requests, all there from the start. Beside it the same ones
arrive at transformers' `generate`, which answers one after the other in their order: how long it takes for each is
measured, and who waits for whom follows from that. Alone is a request that finds the executor idle.
"""

import argparse
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.arrivals import Arrivals, drawn, recorded
from benchmarks.figures import BenchmarkFailed, Figure, Report, count, parser, percentile, terminal
from benchmarks.machine import Machine
from benchmarks.serve import CHAT, Listener, Transformers
from node.executor import Executor
from node.models import ModelCache, ModelError
from node.work import Work

ALONE = 4
"""Every so manieth request is also sent to an idle executor."""

_WORDS = (
    "car night bridge water bread town train snow light house road hand door wind book table sea field stone rain"
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What callers heard: of each answer the seconds from its arrival to each of its tokens."""

    told_s: Sequence[Sequence[float]]
    rows: float = 0.0  # mean in a step
    took_s: float = 0.0  # from the first arrival to the last token

    @property
    def first_s(self) -> list[float]:
        """Time to the first token, of each answer."""
        return [told_s[0] for told_s in self.told_s]

    @property
    def gaps_ms(self) -> list[float]:
        """Between two tokens of an answer, all of them."""
        return [1000.0 * (later - sooner) for told_s in self.told_s for sooner, later in pairwise(told_s)]

    @property
    def tokens(self) -> int:
        """Of all answers together."""
        return sum(map(len, self.told_s))


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; the exit code."""
    options = parser("traffic", str(__doc__).partition("\n")[0])
    options.add_argument("--requests", type=count, default=200, metavar="N", help="at each load (200)")
    options.add_argument("--loads", type=_load, nargs="+", default=[0.5, 0.9], metavar="PART", help="(0.5 0.9)")
    options.add_argument("--threads", type=count, default=1, metavar="N", help="of torch, on both sides (1)")
    options.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="on both sides (fp32)")
    options.add_argument(
        "--trace", type=Path, metavar="FILE", help="requests, CSV (the shape of Azure's trace of 2023)"
    )
    options.add_argument(
        "--shorten", type=count, default=16, metavar="N", help="prompts have one token for N of the trace (16)"
    )
    options.add_argument("--seed", type=int, default=1, metavar="N", help="of the order of gaps and lengths (1)")
    given = options.parse_args(arguments)
    if given.requests < 2:
        options.error("--requests 1: there is no gap between two of them; ask for 2 or more")
    machine, console, cache, listener = Machine.here(), terminal(), ModelCache.of_user(), Listener()
    if given.trace is None:
        arrivals = drawn(given.requests, given.seed)
    else:
        arrivals = recorded(given.trace, given.requests, given.seed)
    with console.status("loading") as status:
        executor = Executor(
            listener, cache=cache, models=[CHAT], device="cpu", dtype=given.dtype, threads=given.threads
        )
        try:
            executor.start()
            theirs = Transformers(cache, given.dtype)
            figures, notes = _measure(arrivals, given, executor, listener, theirs, status.update)
        except ModelError as error:
            raise BenchmarkFailed(str(error)) from None
        finally:
            executor.close()
    layout = f"one executor, {given.threads} thread(s), {given.dtype}; transformers in the same process, in turn"
    settings = {name: getattr(given, name) for name in ("requests", "loads", "threads", "dtype", "shorten", "seed")}
    settings["trace"] = None if given.trace is None else given.trace.name
    Report("traffic", layout, settings, machine, figures, notes).publish(console, given.json)
    return 0


def requests(arrivals: Arrivals, shorten: int, seed: int) -> list[bytes]:
    """Chat requests of these lengths. Another seed gives other words, so that nothing is known of them already."""
    rng, words, made = random.Random(seed), _WORDS.split(), []
    for prompt, answer in zip(arrivals.prompt_tokens.tolist(), arrivals.answer_tokens.tolist(), strict=True):
        notes = " ".join(rng.choices(words, k=max(1, round(prompt / shorten))))
        content = f"{notes}. Write a long story about this."
        made.append(json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": answer}).encode())
    return made


def ours(executor: Executor, listener: Listener, payloads: Sequence[bytes], due_s: Sequence[float]) -> Heard:
    """Answer requests that arrive at these seconds."""
    began_s = time.perf_counter()
    keys = [("traffic", began_s, number) for number in range(len(payloads))]
    steps, stepped = executor.stepped
    for key, payload, at_s in zip(keys, payloads, due_s, strict=True):
        threading.Event().wait(max(0.0, began_s + at_s - time.perf_counter()))
        executor.submit(Work(key, 0, CHAT, [payload], (0,), True, False, streamed=True))
    listener.wait_for(keys)
    took_s = max(listener.ended_s[key] for key in keys) - began_s
    rows = (executor.stepped[1] - stepped) / (executor.stepped[0] - steps)
    told_s = [
        # An answer may have no token but its end.
        [told - began_s - at_s for told in listener.tokens_s.get(key) or [listener.ended_s[key]]]
        for key, at_s in zip(keys, due_s, strict=True)
    ]
    return Heard(told_s, rows, took_s)


def one_by_one(alone: Heard, due_s: Sequence[float]) -> Heard:
    """What callers hear of one who answers in their order, each as fast as alone."""
    free_s, heard = 0.0, []
    for told_s, at_s in zip(alone.told_s, due_s, strict=True):
        waits_s = max(0.0, free_s - at_s)
        heard.append([waits_s + told for told in told_s])
        free_s = at_s + waits_s + told_s[-1]
    return Heard(heard, took_s=free_s)


def _measure(
    arrivals: Arrivals,
    given: Any,
    executor: Executor,
    listener: Listener,
    theirs: Transformers,
    tell: Callable[[str], None],
) -> tuple[list[Figure], list[str]]:
    number = given.requests
    tell("capacity")
    payloads = requests(arrivals, given.shorten, seed=0)
    longest_first = sorted(payloads, key=lambda payload: -json.loads(payload)["max_tokens"])  # they end together
    saturated = ours(executor, listener, longest_first, [0.0] * number)
    capacity = number / saturated.took_s
    tell("requests alone")
    single = [
        ours(executor, listener, [payload], [0.0]) for payload in requests(arrivals, given.shorten, seed=1)[::ALONE]
    ]
    alone = Heard([heard.told_s[0] for heard in single])
    rounds: dict[float, tuple[list[float], Heard]] = {}
    for load in given.loads:
        tell(f"at {load:g} of capacity")
        due_s = (arrivals.at / (load * capacity)).tolist()
        payloads = requests(arrivals, given.shorten, seed=2 + len(rounds))
        rounds[load] = due_s, ours(executor, listener, payloads, due_s)
    tell("generate, one by one")
    plain = Heard([theirs.tell(payload) for payload in requests(arrivals, given.shorten, seed=0)])
    theirs_at_most = number / sum(told_s[-1] for told_s in plain.told_s)
    figures = [
        Figure("capacity: requests", "/s", [capacity]),
        Figure("  generate's, one by one", "/s", [theirs_at_most]),
        *_told("alone", alone),
    ]
    notes = [
        f"{number:,} requests; on average prompts have {mean(arrivals.prompt_tokens / given.shorten):.0f} words "
        f"and answers at most {mean(arrivals.answer_tokens):.0f} tokens; gaps vary by {arrivals.variation:.1f} "
        "times their mean",
        f"at capacity: {saturated.rows:.1f} rows in a step on average, {saturated.tokens:,} tokens in "
        f"{saturated.took_s:.0f} s",
    ]
    for load, (due_s, heard) in rounds.items():
        figures += _told(f"at {load:g}", heard)
        figures += _told(f"at {load:g}, generate one by one", one_by_one(plain, due_s))
        notes.append(
            f"at {load:g} of capacity: {heard.rows:.1f} rows in a step on average, {heard.tokens:,} tokens in "
            f"{heard.took_s:.0f} s; it is {load * capacity / theirs_at_most:.2f} of what generate can, one by one"
        )
    return figures, notes


def _told(when: str, heard: Heard) -> list[Figure]:
    return [
        Figure(f"{when}: first token", "s", heard.first_s),
        Figure(f"{when}: first token, p99", "s", [percentile(heard.first_s, 99)]),
        Figure(f"{when}: between tokens", "ms", heard.gaps_ms),
        Figure(f"{when}: between tokens, p99", "ms", [percentile(heard.gaps_ms, 99)]),
    ]


def _load(text: str) -> float:
    """A part of capacity, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of capacity; give a number over 0, 1 at most")
    return value
