"""A paced car: its answers come no sooner than its profile's, and nobody else waits for them."""

import time
from dataclasses import replace

import pytest

from node.executor import Executor
from node.models import ModelCache
from node.pacing import Chips, Pace, Passage
from node.roofline import Curve, Machine
from node.site import BYTES_PER_MBIT, Rates
from node.work import Key
from node.workloads import load, run_alone
from tests.node.small_models import chat
from tests.node.test_executor import Ear, work

NEVER_S = 1e6
TEXT = b"a car is parked until its owner comes back"


def pace_of(cache: ModelCache, model: str, batch_s: float) -> Pace:
    """A pace at which an ordinary micro-batch of this model takes so long."""
    machine = Machine("slow", Curve.flat(1.0), Curve.flat(1e30), 1.0, None, None)
    taken_s = Pace(machine, 1.0).real_s(load(cache, model).ordinary_cost())
    return Pace(machine, taken_s / batch_s)


class Paced:
    """An executor that keeps a pace, and what it says."""

    def __init__(self, cache: ModelCache, pace: Pace, *models: str) -> None:
        self.ear = Ear()
        self.executor = Executor(
            self.ear, cache=cache, models=models, device="cpu", dtype="fp32", threads=1, pace=pace
        )
        self.speeds = {speed.name: speed for speed in self.executor.start()}

    def __enter__(self) -> "Paced":
        return self

    def __exit__(self, *exception: object) -> None:
        self.executor.close()

    def hold(self, key: Key, model: str, *inputs: bytes, vehicle: int = 0) -> None:
        """Submit a work and wait until it is computed: cars take turns, it has one to be read and one to run."""
        self.executor.submit(work(key, inputs, model, vehicle=vehicle))
        for other, car in ((f"after {key}", 100 + vehicle), (f"once more after {key}", 200 + vehicle)):
            self.executor.submit(work(other, [TEXT], "bert", vehicle=car))
            self.ear.wait_to_hear("announce", other)


def test_batch_work_of_a_car_is_done_one_micro_batch_after_the_other() -> None:
    chips: Chips[str] = Chips()
    chips.hold(0, ["first"], 10.0, 5.0, interactive=False)
    chips.hold(1, ["other car's"], 11.0, 1.0, interactive=False)
    assert (chips.free(0, 14.9), chips.free(0, 15.0), chips.free(2, 0.0)) == (False, True, True)
    assert chips.next_s == 12.0
    assert chips.take(11.9) is None
    assert [chips.take(15.0), chips.take(15.0), chips.take(15.0)] == [["other car's"], ["first"], None]


def test_interactive_work_goes_first_and_the_rest_ends_later_by_so_much() -> None:
    chips: Chips[str] = Chips()
    chips.hold(0, ["batch"], 0.0, 10.0, interactive=False)
    chips.hold(0, ["asked"], 4.0, 2.0, interactive=True)
    chips.hold(0, ["asked next"], 4.5, 2.0, interactive=True)
    assert (chips.take(6.0), chips.take(7.9), chips.take(8.0)) == (["asked"], None, ["asked next"])
    assert (chips.next_s, chips.free(0, 13.9), chips.free(0, 14.0)) == (14.0, False, True)


def test_a_hot_chip_is_later_by_what_heat_takes_and_catches_up_when_it_cools() -> None:
    chips: Chips[str] = Chips()
    chips.hold(0, ["hot"], 0.0, 10.0, interactive=False)
    chips.hold(1, ["cool"], 0.0, 10.0, interactive=False)
    assert not chips.throttle([0.5, 1.0], 4.0), "none is done sooner"
    assert (chips.take(10.0), chips.take(15.9), chips.take(16.0)) == (["cool"], None, ["hot"])
    assert (chips.free(0, 15.9), chips.free(0, 16.0)) == (False, True)
    chips.hold(0, ["next"], 16.0, 1.0, interactive=False)
    chips.hold(0, ["asked"], 16.0, 1.0, interactive=True)
    assert (chips.take(17.9), chips.take(18.0), chips.next_s) == (None, ["asked"], 20.0)
    chips.throttle([0.0, 1.0], 19.0)
    assert chips.take(1_000.0) is None, "half a second of work is left, and it stands still"
    assert chips.throttle([1.0, 1.0], 1_000.0)
    assert 1_000.4 < chips.next_s < 1_000.5


def test_a_chip_is_free_as_soon_as_nobody_waits_for_its_work() -> None:
    chips: Chips[str] = Chips()
    chips.hold(0, ["batch"], 0.0, 10.0, interactive=False)
    chips.hold(0, ["asked"], 0.0, 10.0, interactive=True)
    chips.hold(1, ["other"], 0.0, 10.0, interactive=False)
    assert chips.drop(lambda result: result in ("batch", "asked"), 1.0) == ["batch", "asked"]
    assert chips.free(0, 1.0)
    assert not chips.free(1, 1.0)
    assert chips.holding
    assert chips.next_s == 10.0


def test_inputs_come_before_the_chip_begins_and_results_are_sent_while_it_goes_on() -> None:
    chips: Chips[str] = Chips()
    three, way = Passage(3.0), Passage(3.0, 0.5)
    assert [chips.receive(0, 0.0, three, False), chips.receive(0, 1.0, way, False)] == [3.0, 6.5], "one by one"
    assert chips.receive(0, 1.0, Passage(0.5), True) == 1.5, "a question waits for nothing"
    assert chips.receive(0, 1.0, three, False) == 9.5, "what waits, waits for it, and not for what is on its way"
    assert chips.receive(1, 1.0, three, False) == 4.0
    chips.hold(0, ["first"], 3.0, 1.0, False, Passage(4.0))
    assert (chips.free(0, 3.9), chips.free(0, 4.0), chips.next_s) == (False, True, 8.0)
    assert (chips.change_s(3.9), chips.change_s(4.0)) == (4.0, 8.0)
    chips.hold(0, ["second"], 6.0, 1.0, False, Passage(4.0, 0.5))
    chips.hold(0, ["asked"], 6.5, 0.5, True, Passage(0.125))
    assert chips.take(7.125) == ["asked"]
    assert [chips.take(8.0), chips.take(12.4), chips.take(12.5)] == [["first"], None, ["second"]], (
        "the link was busy"
    )
    chips.hang_up(0)
    assert chips.receive(0, 2.0, three, False) == 5.0


def test_results_that_are_done_later_or_sooner_are_still_sent_one_by_one() -> None:
    chips: Chips[str] = Chips()
    four = Passage(4.0)
    for at, name in enumerate(("first", "second")):
        chips.hold(0, [name], float(at), 10.0, False, four)  # done at 10 and 20
    chips.throttle([0.5], 2.0)  # at 18 and 38
    assert chips.next_s == 22.0
    chips.hold(0, ["asked"], 3.0, 5.0, True, Passage(1.0))  # takes 10; the others are done at 28 and 48
    chips.hold(0, ["third"], 48.0, 0.5, False, four)  # at 49
    assert [chips.take(14.0), chips.next_s] == [["asked"], 32.0]
    chips.throttle([1.0], 26.0)  # at 27, 37 and 37.5
    assert [chips.take(31.0), chips.take(40.9), chips.take(41.0)] == [["first"], None, ["second"]]
    assert [chips.take(44.9), chips.take(45.0)] == [None, ["third"]], "after the second"


@pytest.mark.parametrize("part", ["inputs", "results", "way"])
def test_bytes_and_the_way_take_their_time_on_the_cars_clock(small_cache: ModelCache, part: str) -> None:
    chip = pace_of(small_cache, "bert", 0.1)
    half_s = 0.5 * chip.speed  # of the cars' clock: half a second of this machine's
    (result,) = run_alone(load(small_cache, "bert"), [TEXT])
    assert isinstance(result, bytes)
    rates = {
        "inputs": Rates(down_mbit=len(TEXT) / BYTES_PER_MBIT / half_s),
        "results": Rates(up_mbit=len(result) / BYTES_PER_MBIT / half_s),
        "way": Rates(latency_s=half_s),
    }
    with Paced(small_cache, replace(chip, rates=rates[part]), "bert") as paced:
        began_s = time.perf_counter()
        paced.executor.submit(work("a", [TEXT], "bert"))
        paced.ear.wait_for("a")
        took_s = time.perf_counter() - began_s
        (finished,) = paced.ear.finishes
        assert took_s >= 0.5 + finished.paced_s
        assert 0 < finished.paced_s < 0.2, "the chip's alone"


def test_a_chip_does_not_wait_until_its_results_are_sent(small_cache: ModelCache) -> None:
    chip = pace_of(small_cache, "bert", 0.05)
    far = replace(chip, rates=Rates(latency_s=2.0 * chip.speed))  # a real second there, and one back
    with Paced(small_cache, far, "bert") as paced:
        inputs = [TEXT] * 3 * paced.speeds["bert"].batch_items
        began_s = time.perf_counter()
        paced.executor.submit(work("a", inputs, "bert"))
        paced.ear.wait_for("a")
        assert 2.0 < time.perf_counter() - began_s < 3.0, "one way there and one back, however many micro-batches"


def test_an_answer_comes_no_sooner_than_the_profile_would_and_is_the_same(small_cache: ModelCache) -> None:
    inputs = [TEXT] * 40
    with Paced(small_cache, pace_of(small_cache, "bert", 0.2), "bert") as paced:
        began_s = time.perf_counter()
        paced.executor.submit(work("a", inputs, "bert"))
        paced.ear.wait_for("a")
        took_s = time.perf_counter() - began_s
        assert list(paced.ear.results("a").values()) == run_alone(load(small_cache, "bert"), inputs)
        said_s = sum(finished.paced_s for finished in paced.ear.finishes)
        assert took_s >= said_s > 0.2
        assert sum(finished.busy_s for finished in paced.ear.finishes) < said_s, "measured, and never modelled"
        speed = paced.speeds["bert"]
        assert speed.paced_items_per_s == pytest.approx(speed.batch_items / 0.2)
        assert speed.items_per_s > speed.paced_items_per_s


def test_a_hot_car_answers_later_and_tells_the_seconds_of_a_cool_one(small_cache: ModelCache) -> None:
    inputs = [TEXT] * 16
    with Paced(small_cache, pace_of(small_cache, "bert", 0.1), "bert") as paced:
        paced.executor.throttle([1.0, 0.25])
        took_s = []
        for vehicle in (0, 1):
            began_s = time.perf_counter()
            paced.executor.submit(work(vehicle, inputs, "bert", vehicle=vehicle))
            paced.ear.wait_for(vehicle)
            took_s.append(time.perf_counter() - began_s)
        cool, hot = (finished.paced_s for finished in paced.ear.finishes)
        assert cool == hot, "what heat takes is in the offered share already"
        assert took_s[1] >= 4.0 * hot
        assert took_s[0] < took_s[1]
        paced.executor.throttle([1.0, 0.0])
        paced.executor.submit(work("still", inputs, "bert", vehicle=1))
        paced.executor.submit(work("after", inputs, "bert"))
        paced.ear.wait_for("after")
        assert not paced.ear.results("still")
        paced.executor.throttle([1.0, 1.0])
        paced.ear.wait_for("still")


def test_what_a_car_waits_for_holds_up_no_other_car(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "llama", NEVER_S), "bert", "llama", "noop") as paced:
        paced.hold("slow", "llama", chat("a car", max_tokens=200))
        paced.executor.submit(work("behind", [chat("a car")], "llama"))
        for car in range(1, 4):
            paced.executor.submit(work(car, [TEXT], "noop", vehicle=car))
        paced.ear.wait_for(1, 2, 3)
        paced.hold("another", "llama", chat("a car", max_tokens=200), vehicle=1)
        assert not any(key == "behind" for _, key, _ in paced.ear.heard), "its chip is at work on the one before"


def test_an_owner_never_waits_for_the_pace(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "bert", NEVER_S), "bert", "llama") as paced:
        paced.hold("slow", "bert", TEXT, TEXT)
        began_s = time.perf_counter()
        lost = paced.executor.stop(["slow"]).result(10)
        assert time.perf_counter() - began_s < 0.5
        assert lost["slow"] > 0
        assert not paced.ear.results("slow")
        paced.executor.submit(work("next", [TEXT], "bert"))
        paced.ear.wait_to_hear("announce", "next")  # its chip is free again


def test_a_yield_waits_for_the_pace_and_an_owner_ends_that(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "bert", 1.0), "bert") as paced:
        paced.hold("some", "bert", *[TEXT] * 8)
        yielded = paced.executor.stop(["some"], gently=True)
        assert yielded.result(10) == {"some": 0.0}
        assert len(paced.ear.results("some")) == 8, "told before it ended"
    with Paced(small_cache, pace_of(small_cache, "bert", NEVER_S), "bert") as paced:
        paced.hold("some", "bert", TEXT)
        yielded = paced.executor.stop(["some"], gently=True)
        assert not yielded.done()
        assert paced.executor.stop(["some"]).result(10)["some"] > 0
        assert yielded.result(10)
        assert not paced.ear.results("some")


def test_a_question_is_answered_while_the_car_would_still_be_at_its_batch_work(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "llama", 600.0), "bert", "llama") as paced:
        paced.hold("slow", "llama", chat("a car", max_tokens=400))
        paced.executor.submit(work("asked", [TEXT], "bert", interactive=True))
        paced.ear.wait_for("asked")
        assert not paced.ear.results("slow")
        (asked,) = [finished for finished in paced.ear.finishes if finished.key == "asked"]
        assert asked.paced_s > 0


def test_a_solo_work_waits_until_nothing_else_is_in_flight(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "bert", 1.0), "bert", "noop") as paced:
        paced.hold("some", "bert", *[TEXT] * 4)
        paced.executor.submit(work("suspect", [b"x"], solo=True, vehicle=7))
        paced.executor.submit(work("later", [TEXT], "bert", vehicle=8))
        paced.ear.wait_for("some", "suspect", "later")
        order = [(what, key) for what, key, _ in paced.ear.heard]
        assert order.index(("finished", "some")) < order.index(("announce", "suspect"))
        assert order.index(("finished", "after some")) < order.index(("announce", "suspect"))


def test_closing_ends_what_is_held(small_cache: ModelCache) -> None:
    with Paced(small_cache, pace_of(small_cache, "bert", NEVER_S), "bert") as paced:
        paced.hold("some", "bert", TEXT)
    assert not paced.executor._thread.is_alive()


def test_a_model_that_does_not_fit_the_profile_is_said_at_the_start(small_cache: ModelCache) -> None:
    tiny = Machine("tiny", Curve.flat(1.0), Curve.flat(1.0), 1.0, 10.0, None)
    executor = Executor(
        Ear(), cache=small_cache, models=["bert"], device="cpu", dtype="fp32", threads=1, pace=Pace(tiny, 1.0)
    )
    with pytest.raises(ValueError, match="profile 'tiny' has 1e-08 GB of memory"):
        executor.start()
    executor.close()
