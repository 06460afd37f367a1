"""The executor: order, announcements, failures, and how soon an owner has the car back."""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from node import attempt
from node.attempt import Failure
from node.executor import Executor
from node.models import ModelCache, ModelError
from node.running import Task
from node.work import Finished, Key, Spoken, Work
from node.workloads import Control, load, run_alone, vectors
from node.workloads.echo import Echo
from tests.node.small_models import WORDS, chat, picture


@dataclass
class Ear:
    """A listener that keeps what it hears, in order. Announcements are on the wire at once unless held."""

    heard: list[tuple[str, Key, tuple[int, ...]]] = field(default_factory=list)
    finishes: list[Finished] = field(default_factory=list)
    said: list[Spoken] = field(default_factory=list)
    held: bool = False
    events: list[threading.Event] = field(default_factory=list)
    residency: list[dict[str, float]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def announce(self, key: Key, items: Sequence[int]) -> threading.Event:
        event = threading.Event()
        with self.changed:
            self.heard.append(("announce", key, tuple(items)))
            self.events.append(event)
            if not self.held:
                event.set()
            self.changed.notify_all()
        return event

    def spoke(self, spoken: Spoken) -> None:
        with self.changed:
            self.heard.append(("spoke", spoken.key, (spoken.offset,)))
            self.said.append(spoken)
            self.changed.notify_all()

    def finished(self, finished: Finished) -> None:
        with self.changed:
            self.heard.append(("finished", finished.key, finished.items))
            self.finishes.append(finished)
            self.changed.notify_all()

    def resident(self, load_s: Mapping[str, float]) -> None:
        with self.changed:
            self.residency.append(dict(load_s))
            self.changed.notify_all()

    def wait_for(self, *keys: Key) -> None:
        """Until these works have ended."""
        with self.changed:
            ended = self.changed.wait_for(lambda: set(keys) <= {f.key for f in self.finishes if f.last}, 60)
        assert ended, f"{keys} did not end: {self.heard[-5:]}"

    def wait_to_hear(self, what: str, key: Key) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(h[:2] == (what, key) for h in self.heard), 60)

    def results(self, key: Key) -> dict[int, bytes]:
        ends = [finished for finished in self.finishes if finished.key == key]
        return {item: row for end in ends for item, row in zip(end.items, end.results, strict=True)}

    def errors(self, key: Key) -> dict[int, tuple[str, str]]:
        return {item: (code, why) for f in self.finishes if f.key == key for item, code, why in f.errors}


@contextmanager
def running(ear: Ear, cache: ModelCache, *models: str) -> Iterator[Executor]:
    executor = Executor(ear, cache=cache, models=models, device="cpu", dtype="fp32", threads=1)
    executor.start()
    try:
        yield executor
    finally:
        executor.close()


def work(
    key: Key,
    inputs: Sequence[bytes],
    model: str = "noop",
    *,
    vehicle: int = 0,
    interactive: bool = False,
    solo: bool = False,
) -> Work:
    return Work(key, vehicle, model, inputs, range(len(inputs)), interactive, solo)


def sentences(count: int, words: int = 30) -> list[bytes]:
    rng = random.Random(count)
    return [" ".join(rng.choices(WORDS, k=rng.randint(words // 2, words))).encode() for _ in range(count)]


def test_every_item_comes_back_once_under_its_offset(small_cache: ModelCache) -> None:
    ear = Ear()
    inputs = sentences(300)
    with running(ear, small_cache, "bert", "noop") as executor:
        executor.submit(Work("some", 0, "bert", inputs, range(1000, 1300), False, False))
        executor.submit(work("echo", [b"%d" % index for index in range(5000)]))
        ear.wait_for("some", "echo")
    assert ear.results("some").keys() == set(range(1000, 1300))
    for offset, row in enumerate(run_alone(load(small_cache, "bert"), inputs), 1000):
        assert isinstance(row, bytes)
        (vector, tokens), (expected, read) = vectors.read(ear.results("some")[offset]), vectors.read(row)
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        assert tokens == read
    assert len(ear.finishes) > 3
    assert ear.results("echo") == {index: b"%d" % index for index in range(5000)}
    assert [finished.last for finished in ear.finishes if finished.key == "some"].count(True) == 1


def test_items_are_announced_before_they_run_and_one_micro_batch_ahead(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("a", sentences(150), "bert"))
        executor.submit(work("b", sentences(40), "bert"))
        ear.wait_for("a", "b")
    announced: set[tuple[Key, int]] = set()
    done: set[tuple[Key, int]] = set()
    for what, key, items in ear.heard:
        pairs = {(key, item) for item in items}
        if what == "announce":
            announced |= pairs
        else:
            assert pairs <= announced
            done |= pairs
            assert announced - done or len(done) == 190, "while one micro-batch ran, the next was announced"


def test_nothing_runs_before_its_announcement_is_on_the_wire(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("batch", [b"a car"], "bert"))
        ear.wait_to_hear("announce", "batch")
        executor.submit(work("chat", [b"a car"], "bert", interactive=True))  # is not announced, and does not wait
        ear.wait_for("chat")
        assert not ear.results("batch")
        ear.events[0].set()
        ear.wait_for("batch")
    assert [key for what, key, _ in ear.heard if what == "announce"] == ["batch"]


def test_a_work_that_waits_for_the_wire_can_be_stopped(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("batch", [b"a car"], "bert"))
        ear.wait_to_hear("announce", "batch")
        assert executor.stop(["batch", "unknown"]).result(1) == {"batch": 0.0, "unknown": 0.0}
        ear.held = False
        executor.submit(work("next", [b"a car"], "bert"))
        ear.wait_for("next")
    assert not ear.results("batch")


def test_a_solo_work_is_announced_exactly_with_nothing_else(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("a", sentences(150), "bert"))
        executor.submit(Work("suspect", 1, "bert", [b"a car"], (17,), False, True))
        executor.submit(work("c", sentences(150), "bert", vehicle=2))
        ear.wait_for("a", "suspect", "c")
    at = ear.heard.index(("announce", "suspect", (17,)))
    open_items: set[tuple[Key, int]] = set()
    for what, key, items in ear.heard[:at]:
        pairs = {(key, item) for item in items}
        open_items = open_items | pairs if what == "announce" else open_items - pairs
    assert open_items == set()
    assert ear.heard[at + 1] == ("finished", "suspect", (17,))


def test_interactive_work_goes_before_batch_work_even_in_its_middle(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama", "bert") as executor:
        executor.submit(work("long", [chat("hello", max_tokens=400)], "llama"))
        ear.wait_to_hear("announce", "long")
        executor.submit(work("short", [b"a car"], "bert", interactive=True, vehicle=1))
        ear.wait_for("short")
        assert not ear.results("long"), "the one micro-batch of the long work was still running"
        ear.wait_for("long")
    expected = run_alone(load(small_cache, "llama"), [chat("hello", max_tokens=400)])
    assert list(ear.results("long").values()) == expected


def test_interactive_work_goes_next_at_the_boundary_of_a_micro_batch(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("batch", sentences(150), "bert"))
        ear.wait_to_hear("announce", "batch")
        executor.submit(work("other car", sentences(150), "bert", vehicle=2))
        executor.submit(work("chat", [b"a car"], "bert", interactive=True, vehicle=1))
        ear.held = False
        for event in ear.events:
            event.set()
        ear.wait_for("batch", "other car", "chat")
    order = [finished.key for finished in ear.finishes]
    assert order.index("chat") <= 1, "at most the micro-batch that was announced before went first"


@pytest.mark.parametrize("batch_delay_s", [0.0, 60.0])
def test_a_request_that_is_stopped_as_its_turn_comes_has_none(
    small_cache: ModelCache, batch_delay_s: float
) -> None:
    """A stop comes from another thread at any moment: here between the choice of a request and its turn."""
    executor = Executor(
        Ear(),
        cache=small_cache,
        models=("bert",),
        device="cpu",
        dtype="fp32",
        threads=1,
        batch_delay_s=batch_delay_s,
    )

    class Overtaken(Task):
        """Stopped as soon as it was looked at."""

        @property
        def over(self) -> bool:
            over, self.stopped = self.stopped, True
            return over

    for number in range(2):
        executor._turns.add(Overtaken(work(number, [b"a car"], "bert", interactive=True), 1), interactive=True)
    executor._models.enter("bert", load(small_cache, "bert"), size_bytes=1.0, load_s=0.1)
    executor._serve_once()
    assert not executor._turns.waiting()


def test_a_work_that_yields_finishes_what_runs_and_begins_nothing_more(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    with running(ear, small_cache, "bert", "llama") as executor:
        executor.submit(work("batch", sentences(300), "bert"))
        ear.wait_to_hear("announce", "batch")
        ear.held = False
        ear.events[0].set()
        ear.wait_to_hear("finished", "batch")
        assert executor.stop(["batch"], gently=True).result(10) == {"batch": 0.0}
        done = set(ear.results("batch"))
        executor.submit(work("next", [b"a car"], "bert"))
        ear.wait_for("next")
        assert set(ear.results("batch")) == done
        executor.submit(work("batch", [b"a car"], "bert"))  # it is forgotten
        ear.wait_for("batch")
    assert 0 < len(done) < 300


@contextmanager
def generating(ear: Ear, cache: ModelCache) -> Iterator[Executor]:
    """An executor in the middle of one long micro-batch of the work "long"."""
    with running(ear, cache, "llama", "bert") as executor:
        executor.submit(work("long", [chat("hello", max_tokens=400)], "llama"))
        ear.wait_to_hear("announce", "long")
        executor.submit(work("short", [b"a car"], "bert", interactive=True, vehicle=1))
        ear.wait_for("short")
        yield executor


def test_a_micro_batch_of_a_work_that_yields_ends_even_when_urgent_work_interrupts_it(
    small_cache: ModelCache,
) -> None:
    ear = Ear()
    with generating(ear, small_cache) as executor:
        yielded = executor.stop(["long"], gently=True)
        executor.submit(work("another", [b"a car"], "bert", interactive=True, vehicle=1))
        ear.wait_for("another")
        assert not yielded.done()
        assert yielded.result(60) == {"long": 0.0}
        assert len(ear.results("long")) == 1


def test_an_owner_does_not_wait_for_a_work_that_yields(small_cache: ModelCache) -> None:
    ear = Ear()
    with generating(ear, small_cache) as executor:
        yielded = executor.stop(["long"], gently=True)
        lost_s = executor.stop(["long"]).result(1)
        assert lost_s["long"] > 0.0
        assert yielded.result(1) == pytest.approx(lost_s, abs=0.01)
    assert not ear.results("long")


def test_cars_take_turns_and_one_car_ends_a_lease_before_the_next(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("first", sentences(100), "bert"))
        ear.wait_to_hear("announce", "first")
        executor.submit(work("second", sentences(100), "bert"))
        executor.submit(work("other car", sentences(100), "bert", vehicle=1))
        ear.held = False
        for event in ear.events:
            event.set()
        ear.wait_for("first", "second", "other car")
    order = [finished.key for finished in ear.finishes]
    assert order.index("second") > max(index for index, key in enumerate(order) if key == "first")
    assert order.index("other car") < order.index("second"), "the other car did not wait for this one's works"


def test_what_is_bad_fails_alone_with_the_reason(small_cache: ModelCache) -> None:
    ear = Ear()
    inputs = [b"a car", b"", b"x" * (64 * 1024 + 1), b"\xff", b"owner"]
    with running(ear, small_cache, "bert") as executor:
        executor.submit(work("mixed", inputs, "bert"))
        executor.submit(work("bad", [b""], "bert", interactive=True))
        ear.wait_for("mixed", "bad")
    assert ear.results("mixed").keys() == {0, 4}
    assert ear.errors("mixed") == {
        1: ("bad_input", "the item is empty"),
        2: ("bad_input", "the item has 65,537 bytes, more than the 65,536 that the model takes; shorten it"),
        3: ("bad_input", "the text is not UTF-8: 0xff at byte 0"),
    }
    assert ear.errors("bad") == {0: ("bad_input", "the item is empty")}


def test_a_picture_that_is_none_leaves_its_neighbours_their_results(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "efficientnet") as executor:
        executor.submit(work("pictures", [picture(64, 64), b"no picture", picture(80, 60, "JPEG")], "efficientnet"))
        ear.wait_for("pictures")
    assert ear.results("pictures").keys() == {0, 2}
    assert ear.errors("pictures")[1][0] == "bad_input"


class Fragile(Echo):
    """A model that fails as a whole when one of its inputs is too much for it."""

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The inputs again, if they can be."""
        for error in (MemoryError("80 GB"), RuntimeError("CUDA error: misaligned address"), KeyError("weight")):
            if str(error).encode() in prepared:
                raise error
        return prepared


def test_an_item_on_which_the_model_fails_fails_alone() -> None:
    items = [b"fine", b"80 GB", b"CUDA error: misaligned address", b"'weight'", b"also fine"]
    assert attempt.run(Fragile(), items, Control()) == [
        b"fine",
        Failure("out_of_memory", "the model raised MemoryError: 80 GB"),
        Failure("device", "the model raised RuntimeError: CUDA error: misaligned address"),
        Failure("model", "the model raised KeyError: 'weight'"),
        b"also fine",
    ]


def test_interactive_works_of_one_car_share_a_micro_batch_and_can_be_stopped_alone(small_cache: ModelCache) -> None:
    ear = Ear(held=True)
    requests = {f"chat {index}": chat("hello " * index, max_tokens=200) for index in range(1, 5)}
    with running(ear, small_cache, "llama", "noop") as executor:
        executor.submit(work("suspect", [b"x"], solo=True, interactive=True))  # holds the thread
        ear.wait_to_hear("announce", "suspect")
        for key, request in requests.items():
            executor.submit(work(key, [request], "llama", interactive=True))
        ear.events[0].set()
        ear.wait_for("suspect")
        lost = executor.stop(["chat 2"]).result(10)
        ear.wait_for("chat 1", "chat 3", "chat 4")
    assert lost.keys() == {"chat 2"}
    workload = load(small_cache, "llama")
    for key in ("chat 1", "chat 3", "chat 4"):
        assert list(ear.results(key).values()) == run_alone(workload, [requests[key]])
    busy = [finished.busy_s for finished in ear.finishes if finished.key != "suspect"]
    assert len(busy) == 3


def test_a_key_may_come_back_after_it_was_stopped(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        for _ in range(3):
            executor.submit(work("same", [chat("hello", max_tokens=300)], "llama"))
            ear.wait_to_hear("announce", "same")
            executor.stop(["same"]).result(10)
            ear.heard.clear()
        executor.submit(work("same", [chat("hello", max_tokens=3)], "llama"))
        ear.wait_for("same")
    assert json.loads(ear.results("same")[0])["completion_tokens"] == 3


def test_closing_ends_what_runs(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "llama") as executor:
        executor.submit(work("long", [chat("hello", max_tokens=450)] * 50, "llama"))
        ear.wait_to_hear("announce", "long")
    assert not executor._thread.is_alive()
    assert not any(finished.last for finished in ear.finishes)


def test_a_model_that_cannot_be_loaded_is_said_at_the_start(small_cache: ModelCache) -> None:
    executor = Executor(Ear(), cache=small_cache, models=["nope"], device="cpu", dtype="fp32", threads=1)
    with pytest.raises(ModelError, match="no model 'nope'"):
        executor.start()
    executor.close()


def test_what_is_offered_says_how_fast_it_is(small_cache: ModelCache) -> None:
    executor = Executor(Ear(), cache=small_cache, models=["bert", "noop"], device="cpu", dtype="fp32", threads=1)
    bert, noop = executor.start()
    executor.close()
    assert (bert.kind, bert.digest, bert.max_item_bytes) == ("embed", small_cache.get("bert").digest, 64 << 10)
    assert bert.items_per_s > 0
    assert (noop.name, noop.kind, noop.batch_items) == ("noop", "echo", 4096)


WORST = {
    # The longest inputs that each takes, and seconds within which it is stopped at a random moment.
    "minilm": ([b"parked " * 4_000] * 8, 0.8, 30),
    "efficientnet-lite0": ([picture(7_000, 5_600)] * 8, 1.5, 20),
    "smollm2": ([chat("parked " * 3_900, max_tokens=64)], 3.0, 12),
}


ROUNDS = 3
"""A machine that is busy with something else keeps its threads waiting: the best of so many rounds counts."""


@pytest.mark.parametrize("name", WORST)
def test_an_owner_has_the_car_back_within_100_ms_at_the_longest_input(named_cache: ModelCache, name: str) -> None:
    rng = random.Random(5)
    rounds: list[list[int]] = []
    ear = Ear()
    with running(ear, named_cache, name) as executor:
        while len(rounds) < ROUNDS and (not rounds or rounds[-1][-2] >= 100):
            rounds.append(sorted(stops_ms(executor, ear, name, len(rounds), rng)))
    assert rounds[-1][-2] < 100, f"stops took, at the longest, {[stops[-5:] for stops in rounds]} ms"


def stops_ms(executor: Executor, ear: Ear, name: str, turn: int, rng: random.Random) -> list[int]:
    """What stops of the longest input at random moments take, milliseconds."""
    inputs, within_s, tries = WORST[name]
    stops: list[int] = []
    for number in range(tries):
        key = turn, number
        executor.submit(work(key, inputs, name))
        ear.wait_to_hear("announce", key)
        threading.Event().wait(rng.random() * within_s)  # the owner's own time
        began_s = time.perf_counter()
        lost_s = executor.stop([key]).result(30)
        stops.append(round(1000 * (time.perf_counter() - began_s)))
        assert lost_s[key] >= 0
    finishes = len(ear.finishes)
    threading.Event().wait(0.2)
    assert len(ear.finishes) == finishes, "nothing comes after a stop"
    return stops


def test_a_single_echo_costs_next_to_nothing(small_cache: ModelCache) -> None:
    ear = Ear()
    with running(ear, small_cache, "noop") as executor:
        times_s = []
        for key in range(500):
            began_s = time.perf_counter()
            executor.submit(work(key, [b"x" * 170], interactive=True))
            ear.wait_for(key)
            times_s.append(time.perf_counter() - began_s)
            ear.finishes.clear()
            ear.heard.clear()
    assert sorted(times_s)[250] < 0.001
