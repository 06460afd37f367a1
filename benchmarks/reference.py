"""The same models run directly, in this process, in fp32: what a fleet's results are compared with.

Vectors may differ by rounding. Classes and greedy text must be equal, but where the reference's own choice hung
by a thread: its two largest logits within TIE of each other.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from benchmarks.story import Comparison
from node.models import ModelCache
from node.workloads import BadInput, load, run_alone, vectors
from node.workloads.device import use_threads
from node.workloads.generate import Generate

DISTANCE = 1e-4  # cosine distance of two vectors that are the same but for rounding
TIE = 1e-3  # between two logits, either of which may be the larger one in another order of summing


class Reference:
    """Models of the cache, each loaded when it is compared with.

    The inputs are shared out among a few threads, each with a model of its own and one torch thread: several torch
    threads in one small micro-batch wait for each other, and on a busy machine wait long.
    """

    def __init__(self, cache: ModelCache, device: str, threads: int) -> None:
        self._cache = cache
        self._device = device
        self._threads = threads

    def vectors(self, model: str, inputs: Sequence[bytes], results: Sequence[bytes]) -> Comparison:
        """Compare embeddings."""
        expected = np.array([vectors.read(row)[0] for row in self._run(model, inputs)], np.float64)  # [N, D]
        actual = np.array([vectors.read(row)[0] for row in results], np.float64)  # [N, D]
        norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
        distances = 1 - (expected * actual).sum(1) / norms
        far = np.flatnonzero(~(distances <= DISTANCE))
        wrong = [f"sentence {index} is {distances[index]:.1e} away" for index in far]
        equal, farthest = len(results) - len(wrong), max(distances.max(), 0.0)
        verdict = f"{equal:,} of {len(results):,} vectors equal, the farthest {farthest:.0e} away"
        return Comparison(model, verdict, (), wrong)

    def classes(
        self, model: str, names: Sequence[str], inputs: Sequence[bytes], results: Sequence[bytes]
    ) -> Comparison:
        """Compare the likeliest class of each picture."""
        ties: list[str] = []
        wrong: list[str] = []
        for name, row, result in zip(names, self._run(model, inputs), results, strict=True):
            first, second = json.loads(row)["classes"][:2]
            chosen = json.loads(result)["classes"][0]
            if chosen["index"] != first["index"]:
                gap = first["logit"] - second["logit"]
                place = f"{name}: {chosen['label']} for {first['label']}, {gap:.0e} apart"
                (ties if gap < TIE and chosen["index"] == second["index"] else wrong).append(place)
        verdict = f"{len(results) - len(ties) - len(wrong)} of {len(results)} classes equal"
        return Comparison(model, verdict, ties, wrong)

    def texts(self, model: str, inputs: Sequence[bytes], results: Sequence[bytes]) -> Comparison:
        """Compare greedy answers."""
        ties: list[str] = []
        wrong: list[str] = []
        for index, (row, result) in enumerate(zip(self._run(model, inputs), results, strict=True)):
            expected, actual = json.loads(row)["text"], json.loads(result)["text"]
            if expected != actual:
                shared = next(n for n in range(len(expected) + 1) if expected[: n + 1] != actual[: n + 1])
                gap = self._gap(model, inputs[index], expected[:shared])
                place = f"answer {index} after {expected[:shared][-30:]!r}: {gap:.0e} apart"
                (ties if gap < TIE else wrong).append(place)
        verdict = f"{len(results) - len(ties) - len(wrong)} of {len(results)} answers equal"
        return Comparison(model, verdict, ties, wrong)

    def _gap(self, model: str, payload: bytes, shared: str) -> float:
        """How near the choice was at the last token that begins within this much of the answer."""
        workload = load(self._cache, model, self._device, "fp32")
        assert isinstance(workload, Generate)
        _, steps = workload.trace(payload)
        return [step.gap for step in steps if shared.startswith(step.text)][-1]

    def _run(self, model: str, inputs: Sequence[bytes]) -> list[bytes]:
        rows: list[bytes] = [b""] * len(inputs)
        with ThreadPoolExecutor(self._threads, initializer=use_threads, initargs=(1,)) as threads:
            shares = [slice(first, None, self._threads) for first in range(self._threads)]
            for share, outcomes in zip(
                shares, threads.map(partial(self._share, model, inputs), shares), strict=True
            ):
                rows[share] = outcomes
        return rows

    def _share(self, model: str, inputs: Sequence[bytes], share: slice) -> list[bytes]:
        outcomes = run_alone(load(self._cache, model, self._device, "fp32"), inputs[share])
        assert not any(isinstance(outcome, BadInput) for outcome in outcomes), "the fleet has taken them"
        return [outcome for outcome in outcomes if isinstance(outcome, bytes)]
