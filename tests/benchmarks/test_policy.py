"""The policy benchmark: its bound against exact cases, its simulator, small weeks of every policy, its cache."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.policy import jobs as made
from benchmarks.policy.bound import BIN_S, bound
from benchmarks.policy.cars import Car, Fleet, Sources, Stay
from benchmarks.policy.jobs import Job
from benchmarks.policy.mix import CELLS, FAST_MODEL, HOUR_S, MODELS, WEEK_S
from benchmarks.policy.orders import Fact, Orders, Plugged, Reported, Slice
from benchmarks.policy.results import Results
from benchmarks.policy.runs import BLIND, BOUND, ORACLE, OURS, POLICIES, Run
from benchmarks.policy.simulator import WAKE_EVERY_S, Outcome, Week
from coordinator import cohorts
from tests.benchmarks.running import run

COLD_S = 60.0
_Slots = tuple[int, int]


def car(number: int, *stays: tuple[float, float], speed: float = 1.0) -> Car:
    return Car(number, speed, 0, tuple(Stay(*stay) for stay in stays), ())


def job(
    number: int, items: int, item_s: float, *, within: tuple[float, float], density: float = 1.0, fast: bool = False
) -> Job:
    return Job(number, FAST_MODEL if fast else MODELS[0], items, item_s, *within, density)


# The bound


def best_of_all(jobs: Sequence[Job], cars: Sequence[Car], slot_s: float) -> float:
    """The value of the best schedule, by trying all whose items begin at whole slots."""
    subsets = [some for size in range(len(jobs) + 1) for some in combinations(jobs, size)]
    worth = sorted(((sum(one.value for one in some), some) for some in subsets), key=lambda each: -each[0])
    for value, chosen in worth:
        if _fits([one for one in chosen for _ in range(one.items)], cars, slot_s, {}):
            return value
    raise AssertionError("to do nothing is a schedule")


def _fits(items: list[Job], cars: Sequence[Car], slot_s: float, busy: dict[int, list[_Slots]]) -> bool:
    if not items:
        return True
    for number, slots in _places(items[0], cars, slot_s):
        taken = busy.setdefault(number, [])
        if all(slots[1] <= begin or end <= slots[0] for begin, end in taken):
            taken.append(slots)
            if _fits(items[1:], cars, slot_s, busy):
                return True
            taken.remove(slots)
    return False


def _places(item: Job, cars: Sequence[Car], slot_s: float) -> Iterator[tuple[int, _Slots]]:
    for one in cars:
        size = round(item.item_s / one.speed / slot_s)
        for stay in one.stays if one.speed > 1 or not item.fast_only else ():
            first = round(max(stay.begin_s, item.submit_s) / slot_s)
            last = round(min(stay.end_s, item.deadline_s) / slot_s)
            for begin in range(first, last - size + 1):
                yield one.number, (begin, begin + size)


@pytest.mark.parametrize("whole", [False, True])
def test_no_schedule_of_a_small_case_is_worth_more_than_the_bound(whole: bool) -> None:
    chosen = np.random.default_rng(7)
    slot_s = 3600.0 if whole else 1800.0
    tight = 0
    for _ in range(60):
        begins = chosen.integers(0, 4, 3)
        cars = [
            car(at, (begin * slot_s, (begin + 1 + int(chosen.integers(0, 4))) * slot_s), speed=1.0 + (at == 2))
            for at, begin in enumerate(begins.tolist())
        ]
        jobs = []
        for number in range(int(chosen.integers(1, 5))):
            submit = int(chosen.integers(0, 4))
            within = submit * slot_s, (submit + int(chosen.integers(2, 5))) * slot_s
            density = float(chosen.choice((1, 2, 4)))
            item_s = 2 * slot_s * int(chosen.integers(1, 3)) / (1 + whole)
            jobs.append(job(number, int(chosen.integers(1, 3)), item_s, within=within, density=density))
        best, limit = best_of_all(jobs, cars, slot_s / 2), bound(jobs, cars, 0.0, bin_s=1800.0)
        assert best <= limit + 1e-6
        assert limit <= sum(one.value for one in jobs) + 1e-6
        tight += limit <= best + 1e-6
    assert tight >= 15, "a bound that is never reached is loose"


def test_the_bound_knows_classes_windows_items_and_loading() -> None:
    slow, fast = car(0, (0.0, 7200.0)), car(1, (0.0, 7200.0), speed=8.0)
    only = [job(1, 8, 7200.0, within=(0.0, 7200.0), fast=True)]
    assert bound(only, [slow], 0.0) == 0.0
    assert bound(only, [slow, fast], 0.0) == pytest.approx(8 * 7200.0)
    assert bound(only, [fast], 900.0) == pytest.approx(8 * 6300.0), "what is plugged in loads first"
    one = [job(1, 1, 3000.0, within=(0.0, 1800.0), density=4.0)]
    assert bound(one, [slow, car(2, (0.0, 7200.0))], 0.0) == pytest.approx(4 * 1800.0), "an item is on one car"
    late = [job(1, 100, 60.0, within=(BIN_S / 2, BIN_S))]
    assert bound(late, [slow], 0.0) <= BIN_S
    hours = [job(1, 3, 3600.0, within=(0.0, 4 * HOUR_S))]
    short = [car(0, (0.0, 1.9 * HOUR_S)), car(1, (2 * HOUR_S, 2.9 * HOUR_S))]
    assert bound(hours, short, 0.0) == pytest.approx(3600.0), "a stay takes whole items"


# The simulator


class Script:
    """Orders slices by the time, and keeps what it is told."""

    def __init__(self, *orders: tuple[float, Orders]) -> None:
        self.told: list[tuple[float, Fact]] = []
        self._orders = list(orders)

    def decide(self, facts: Sequence[Fact], now_s: float) -> Orders:
        self.told += [(now_s, fact) for fact in facts]
        return self._orders.pop(0)[1] if self._orders and now_s >= self._orders[0][0] else Orders()

    def wakeup_s(self) -> float | None:
        return self._orders[0][0] if self._orders else None

    def reports(self) -> list[tuple[float, Reported]]:
        return [(now_s, fact) for now_s, fact in self.told if isinstance(fact, Reported)]


def lived(script: Script, jobs: Sequence[Job], *cars: Car) -> Outcome:
    return Week(Fleet(cars, cohorts.load()), jobs, COLD_S, script).run()


def test_a_slice_takes_its_loading_and_its_items_and_the_next_of_the_model_only_its_items() -> None:
    script = Script((10.0, Orders([Slice(1, 0, 1, ((0, 4),)), Slice(2, 0, 1, ((4, 6),))])))
    outcome = lived(script, [job(1, 10, 80.0, within=(5.0, 200.0))], car(0, (0.0, 9_000.0), speed=8.0))
    begun_s = WAKE_EVERY_S  # it asked for 10 s at 0 s
    (first_s, first), (second_s, second) = script.reports()
    assert first_s == pytest.approx(begun_s + COLD_S + 4 * 10.0)
    assert second_s == pytest.approx(first_s + 6 * 10.0)
    assert (first.done, first.whole, second.done, first.loading_s, second.loading_s) == (4, True, 6, COLD_S, 0.0)
    assert (outcome.value, outcome.on_time) == (800.0, 1)
    assert outcome.account.useful_s == 800.0
    assert outcome.account.loading_s == COLD_S * 8.0


def test_a_departure_loses_the_item_in_flight_and_what_a_car_had_in_memory() -> None:
    script = Script((0.0, Orders()), (30.0, Orders([Slice(1, 0, 1, ((0, 9),))])))
    outcome = lived(script, [job(1, 9, 100.0, within=(0.0, 5_000.0))], car(0, (0.0, 345.0), (400.0, 500.0)))
    ((_, report),) = script.reports()
    assert (report.done, report.whole, report.lost_s) == (2, False, 55.0)
    assert [fact.age_s for _, fact in script.told if isinstance(fact, Plugged)] == [0.0, 0.0]
    assert (outcome.value, outcome.item_value, outcome.late_s) == (0.0, 200.0, 200.0)
    assert outcome.account.lost_s == 55.0
    assert outcome.account.spent_s == 345.0 - 30.0


def test_what_gives_way_ends_its_item_and_what_is_stopped_ends_at_once() -> None:
    script = Script(
        (0.0, Orders()),
        (30.0, Orders([Slice(1, 0, 1, ((0, 9),)), Slice(2, 1, 2, ((0, 9),))])),
        (345.0, Orders(yields=[1], stops=[2])),
    )
    jobs = [job(number, 9, 100.0, within=(0.0, 5_000.0)) for number in (1, 2)]
    outcome = lived(script, jobs, car(0, (0.0, 9_000.0)), car(1, (0.0, 9_000.0)))
    ((now_s, report),) = script.reports()
    assert now_s == pytest.approx(30.0 + COLD_S + 300.0)
    assert (report.done, report.gave_way, report.whole) == (3, True, False)
    assert (outcome.yields, outcome.stops) == (1, 1)
    assert outcome.account.stopped_s == 55.0
    assert outcome.account.repeated_s == 200.0


def test_a_request_is_answered_at_once_and_pauses_what_runs() -> None:
    asked = Job(2, "chat", 1, 2.0, 200.0, 260.0, 0.0, interactive=True)
    script = Script(
        (0.0, Orders()), (30.0, Orders([Slice(1, 0, 1, ((0, 3),))])), (200.0, Orders([Slice(2, 0, 2, ((0, 1),))]))
    )
    outcome = lived(script, [job(1, 3, 100.0, within=(0.0, 5_000.0)), asked], car(0, (0.0, 9_000.0)))
    assert outcome.waits_s == [2.0]
    assert script.reports()[-1][0] == pytest.approx(30.0 + COLD_S + 300.0 + 2.0)


# Small weeks


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cell", ["base:0.9", "churn:0.6"])
def test_every_policy_lives_through_a_week_and_no_second_is_spent_twice(cell: str, policy: str) -> None:
    suite = CELLS[cell].suite
    fleet = Sources.read(None, None).fleet(suite, 1, count=6)
    jobs = made.draw(CELLS[cell], fleet, 1)
    asked = made.requests(made.arrivals(None), 1, len(jobs) + 1)[::50]
    outcome = Week(fleet, [*jobs, *asked], suite.cold_s, POLICIES[policy](fleet, suite)).run()
    assert outcome.jobs == len(jobs)
    assert outcome.value <= outcome.item_value + 1e-3 <= bound(jobs, fleet.cars, suite.cold_s) + 2e-3
    assert outcome.account.spent_s <= fleet.work_s(np.inf) * (1 + 1e-9)
    assert outcome.item_value > 0


def test_a_seed_draws_the_same_week_again_with_work_to_its_load_and_deadlines_within_limits() -> None:
    sources = Sources.read(None, None)
    for cell in CELLS.values():
        fleet = sources.fleet(cell.suite, 5, count=40)
        jobs = made.draw(cell, fleet, 5)
        assert jobs == made.draw(cell, sources.fleet(cell.suite, 5, count=40), 5)
        assert sum(one.work_s for one in jobs[:-1]) <= cell.load * fleet.work_s(WEEK_S) * 1.5
        assert all(0.5 * HOUR_S <= one.deadline_s - one.submit_s <= 24 * HOUR_S + 1e-6 for one in jobs)
        assert all(one.item_s * cell.suite.least_items <= one.deadline_s - one.submit_s + 1e-6 for one in jobs)


def test_the_oracle_and_the_forecast_know_what_they_may() -> None:
    fleet = Sources.read(None, None).fleet(CELLS["base:0.9"].suite, 1, count=30)
    assert all(stay.end_s <= 0 for one in fleet.cars for stay in one.before)
    assert all(stay.end_s > 0 for one in fleet.cars for stay in one.stays)
    known = fleet.forecast()
    rows = np.array([one.number for one in fleet.cars if len(one.before) > 10], np.int32)
    assert not known.stays(rows, np.array([3600.0]), 0.0).any(), "nobody is plugged in yet"


# Goals, and the command


def test_the_gap_closed_is_from_no_forecast_to_the_oracle() -> None:
    spent = {"useful_s": 90.0, "lost_s": 1.0, "loading_s": 9.0}
    found = {
        Run("churn:0.9", policy, seed): {"value": value, "item_value": 9.0, "account": spent}
        for seed in (101, 202)
        for policy, value in ((OURS, 7.0), (BLIND, 6.0), (ORACLE, 8.0), (BOUND, 10.0))
    }
    results = Results(found, ["churn:0.9"], [OURS, BLIND, ORACLE])
    assert results.gap_closed("churn:0.9") == pytest.approx(0.5)
    assert results.over_bound() == {"churn": {"0.9": 0.7}}
    (lost,) = [figure for figure in results.figures() if "lost to departures" in figure.name]
    assert list(lost.samples) == [1.0, 1.0]


def test_the_command_tells_keeps_and_resumes(tmp_path: Path) -> None:
    flags = ("--cells", "churn:0.6", "--policies", "fifo", "--seeds", 1, "--processes", 1, "--cache", tmp_path)
    first = run("policy", *flags, "--json")
    assert first.returncode == 0, first.stderr
    assert "drawn from the committed fit" in first.stdout
    assert json.loads(first.stdout.splitlines()[-1]) == {"value_over_bound": {}}
    (kept,) = tmp_path.glob("*-fifo-*.json")
    result = json.loads(kept.read_text())
    kept.write_text(json.dumps({**result, "value": 0.0}))
    written = tmp_path / "figures.json"
    again = run("policy", *flags, "--runs", "--json", written)
    assert "churn:0.6 fifo 101: value 0.0000" in again.stdout
    (figure,) = json.loads(written.read_text())["figures"]
    assert figure["samples"] == [0.0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--cells", "base:7"), "there is no cell 'base:7'"),
        (("--policies", "lifo"), "there is no policy 'lifo'"),
        (("--seeds", "11"), "there are 10 seeds"),
    ],
)
def test_what_there_is_not_is_refused(flags: tuple[str, str], told: str) -> None:
    ended = run("policy", *flags)
    assert ended.returncode == 2
    assert told in ended.stderr
