"""Requests that wait for others to share a micro-batch with."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from node.executor import Executor
from node.gathering import Gathering
from node.models import ModelCache
from tests.node.small_models import chat
from tests.node.test_executor import Ear, work


def test_who_asks_alone_waits_for_nobody() -> None:
    assert Gathering(5.0).until_s("group", [100.0], 1, 16) == -inf


def test_requests_that_come_together_wait_for_more_for_the_delay_of_the_first() -> None:
    assert Gathering(5.0).until_s("group", [100.0, 104.0], 2, 16) == 105.0


def test_a_full_micro_batch_waits_no_longer() -> None:
    assert Gathering(5.0).until_s("group", [100.0, 104.0], 16, 16) == -inf


def test_after_company_the_next_one_expects_some_and_after_none_it_does_not() -> None:
    gathering = Gathering(5.0)
    gathering.begun("group", 3)
    assert gathering.until_s("group", [100.0], 1, 16) == 105.0
    assert gathering.until_s("another", [100.0], 1, 16) == -inf
    gathering.begun("group", 1)
    assert gathering.until_s("group", [100.0], 1, 16) == -inf


@contextmanager
def in_company(ear: Ear, cache: ModelCache, delay_s: float) -> Iterator[Executor]:
    """An executor whose last micro-batch of requests was full."""
    executor = Executor(
        ear,
        cache=cache,
        models=("bert", "llama", "noop"),
        device="cpu",
        dtype="fp32",
        threads=1,
        batch_delay_s=delay_s,
    )
    executor.start()
    try:
        ear.held = True
        executor.submit(work("suspect", [b"x"], solo=True, interactive=True))  # holds the thread
        ear.wait_to_hear("announce", "suspect")
        keys = fill(executor, 16)
        ear.held = False
        ear.events[0].set()
        ear.wait_for("suspect", *keys)
        yield executor
    finally:
        executor.close()


def fill(executor: Executor, count: int) -> list[str]:
    keys = [f"{count} {number}" for number in range(count)]
    for key in keys:
        executor.submit(work(key, [b"a car"], "bert", interactive=True))
    return keys


def test_requests_gather_until_their_micro_batch_is_full_and_nobody_else_waits(small_cache: ModelCache) -> None:
    ear = Ear()
    with in_company(ear, small_cache, delay_s=60.0) as executor:
        executor.submit(work("first", [b"a car"], "bert", interactive=True))
        executor.submit(work("chat", [chat("hello", max_tokens=1)], "llama", interactive=True))
        executor.submit(work("batch", [b"a car"], "bert"))
        ear.wait_for("chat", "batch")
        assert not ear.results("first"), "it waits for others, and nothing waits for it"
        keys = fill(executor, 15)
        ear.wait_for("first", *keys)


def test_a_request_waits_for_company_no_longer_than_the_delay(small_cache: ModelCache) -> None:
    ear, delay_s = Ear(), 0.3
    with in_company(ear, small_cache, delay_s) as executor:
        began_s = time.perf_counter()
        executor.submit(work("first", [b"a car"], "bert", interactive=True))
        executor.submit(work("chat", [chat("hello", max_tokens=1)], "llama", interactive=True))
        ear.wait_for("chat")
        executor.submit(work("second", [b"owner"], "bert", interactive=True))
        ear.wait_for("first", "second")
        assert time.perf_counter() - began_s >= delay_s
        order = [key for what, key, _ in ear.heard if what == "finished"]
        assert order.index("second") == order.index("first") + 1

        executor.submit(work("third", [b"a car"], "bert", interactive=True))  # had company, and expects some
        ear.wait_for("third")
        began_s = time.perf_counter()
        executor.submit(work("alone", [b"a car"], "bert", interactive=True))
        ear.wait_for("alone")
        assert time.perf_counter() - began_s < delay_s
