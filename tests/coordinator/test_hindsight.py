"""The bound on what could have been earned: never below what anybody can do, and exact on one pool of nodes."""

import timeit
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest

from coordinator.core.effects import Outcome
from coordinator.core.events import Beats, JobId, JobsCancelled, JobSpec, LotId, LotJoined, ModelSpeed, NodesOffered
from coordinator.core.fleet import Fleet
from coordinator.core.hindsight import Floats, Hindsight, Wishes, most_value
from coordinator.core.job import Job
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import MODEL, Town

TIMES = 6


def day(seed: int, jobs: int) -> tuple[Wishes, Floats]:
    """Jobs, and what the pool can do in each of a few stretches of time."""
    random = np.random.default_rng(seed)
    begin = random.integers(0, TIMES, jobs)
    end = begin + 1 + (random.random(jobs) * (TIMES - begin)).astype(np.intp)
    return (
        Wishes(random.uniform(0.5, 8.0, jobs), random.uniform(1.0, 10.0, jobs), begin, end - 1),
        random.integers(0, 6, TIMES).astype(np.float64),
    )


def room(capacity: Floats) -> Floats:
    """What can be done between the beginning of a stretch and the end of another."""
    until = np.concatenate(([0.0], np.cumsum(capacity)))
    return until[None, 1:] - until[:-1, None]


@pytest.mark.parametrize("seed", range(30))
def test_the_greedy_is_the_optimum_of_the_linear_program(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    wishes, capacity = day(seed, 8)
    spots = [(job, time) for job in range(8) for time in range(wishes.row[job], wishes.column[job] + 1)]
    density = wishes.value / wishes.work_s
    limits = [[float(spot[0] == job) for spot in spots] for job in range(8)]
    limits += [[float(spot[1] == time) for spot in spots] for time in range(TIMES)]
    found = optimize.linprog(
        [-density[job] for job, _ in spots], A_ub=limits, b_ub=np.concatenate((wishes.work_s, capacity))
    )
    assert most_value(wishes, room(capacity)) == pytest.approx(-found.fun, abs=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_of_whole_jobs_earns_more(seed: int) -> None:
    wishes, capacity = day(seed, 7)
    best = max(
        sum(wishes.value[job] for job in chosen)
        for count in range(8)
        for chosen in combinations(range(7), count)
        if earliest_deadline_first(wishes, capacity, chosen)
    )
    assert most_value(wishes, room(capacity)) >= best - 1e-9


def earliest_deadline_first(wishes: Wishes, capacity: Floats, chosen: tuple[int, ...]) -> bool:
    """Whether all of these can be done in time."""
    left = {job: float(wishes.work_s[job]) for job in chosen}
    for time, free in enumerate(capacity.tolist()):
        for job in sorted(chosen, key=lambda job: wishes.column[job]):
            if wishes.row[job] <= time <= wishes.column[job]:
                part = min(left[job], free)
                left[job] -= part
                free -= part
    return all(work_s < 1e-9 for work_s in left.values())


def fleet(*lots: tuple[int, dict[str, float]]) -> Fleet:
    """Lots of so many nodes, with the items a second of each model."""
    scheduler = Scheduler(SchedulingSettings(), epoch=1)
    first = 0
    for number, (nodes, rates) in enumerate(lots):
        rows = np.arange(first, first + nodes, dtype=np.int32)
        scheduler.handle((LotJoined(LotId(number), 1, rows, ("hw4",) * nodes, np.full(nodes, 160.0), ()),), 0.0)
        scheduler.fleet.measure(
            LotId(number), {model: ModelSpeed(rate, 0.0, 8) for model, rate in rates.items()}, 0.0
        )
        scheduler.handle((NodesOffered(rows, np.full(nodes, 1e6), np.ones(nodes)),), 0.0)
        first += nodes
    return scheduler.fleet


def settled(
    hindsight: Hindsight, model: str, items: int, came_s: float, due_s: float, value: float, *, earned: bool
) -> None:
    """A job is done at its deadline, or is not."""
    spec = JobSpec(JobId(1), "local", "grpc", model, items, 100, False, due_s, value)
    job = Job(spec, 1, came_s, ready=True)
    if earned:
        job.done, job.ended = items, Outcome.DONE
    hindsight.settle(job, due_s)


def watched(of: Fleet, until_s: float, between: Callable[[Hindsight], None]) -> Hindsight:
    """What was seen of a fleet that stays as it is."""
    hindsight = Hindsight(of)
    for now_s in np.arange(0.0, until_s, 10.0).tolist():
        hindsight.look(now_s)
    between(hindsight)
    hindsight.look(until_s)
    return hindsight


def test_what_could_not_be_done_by_anybody_is_no_loss() -> None:
    def jobs(hindsight: Hindsight) -> None:
        settled(hindsight, MODEL, 1000, 0.0, 100.0, 10.0, earned=True)
        settled(hindsight, MODEL, 10**9, 0.0, 100.0, 1.0, earned=False)
        settled(hindsight, "unheard of", 1, 0.0, 100.0, 1.0, earned=False)

    assert watched(fleet((1, {MODEL: 10.0})), 100.0, jobs).ratio() == pytest.approx(1.0, abs=1e-6)
    assert watched(fleet((2, {MODEL: 10.0})), 100.0, jobs).ratio() == pytest.approx(1.0, abs=1e-5)


def test_the_wrong_choice_among_two_jobs_shows() -> None:
    def jobs(hindsight: Hindsight) -> None:
        settled(hindsight, MODEL, 1000, 0.0, 100.0, 1.0, earned=True)
        settled(hindsight, MODEL, 1000, 0.0, 100.0, 4.0, earned=False)

    assert watched(fleet((1, {MODEL: 10.0})), 100.0, jobs).ratio() == pytest.approx(0.25)
    assert watched(fleet((2, {MODEL: 10.0})), 100.0, jobs).ratio() == pytest.approx(0.2)


def test_a_model_is_bounded_by_the_nodes_that_run_it() -> None:
    def jobs(hindsight: Hindsight) -> None:
        settled(hindsight, "big", 100, 0.0, 100.0, 1.0, earned=True)
        settled(hindsight, "big", 100, 0.0, 100.0, 1.0, earned=False)

    apart = fleet((9, {MODEL: 10.0}), (1, {MODEL: 10.0, "big": 1.0}))
    assert watched(apart, 100.0, jobs).ratio() == pytest.approx(1.0)
    more = fleet((9, {MODEL: 10.0}), (2, {MODEL: 10.0, "big": 1.0}))
    assert watched(more, 100.0, jobs).ratio() == pytest.approx(0.5)


def test_a_short_deadline_is_bounded_by_its_own_time() -> None:
    def jobs(hindsight: Hindsight) -> None:
        settled(hindsight, MODEL, 10, 31.0, 32.0, 1.0, earned=True)
        settled(hindsight, MODEL, 10, 43.0, 43.5, 1.0, earned=False)

    assert watched(fleet((1, {MODEL: 10.0})), 100.0, jobs).ratio() == pytest.approx(1 / 1.5)


def test_nothing_is_said_before_there_was_anything_to_earn() -> None:
    town = Town()
    assert town.scheduler.snapshot(town.now_s).value_over_bound is None
    town.park(1)
    cancelled = town.submit(100_000, deadline_s=town.now_s + 100)
    town.submit(10, interactive=True, deadline_s=town.now_s + 1)
    town.submit(100_000)
    town.step(JobsCancelled((cancelled,)))
    for _ in range(20):
        town.step(Beats(np.zeros(1, np.int32)), after_s=10.0)
    assert town.scheduler.snapshot(town.now_s).value_over_bound is None


def test_a_job_on_time_counts_for_it_and_a_late_one_against_it_once() -> None:
    town = Town()
    town.park(2)  # 100 items a second each
    town.submit(1000, deadline_s=town.now_s + 60)  # of value 1000
    town.work_off(town.grants())
    late = town.submit(3000, deadline_s=town.now_s + 60)
    grants = town.grants()
    for _ in range(7):
        town.step(Beats(np.arange(2, dtype=np.int32)), after_s=10.0)
        grants += town.grants()
    assert town.scheduler.snapshot(town.now_s).value_over_bound == pytest.approx(0.25)
    town.work_off([grant for grant in grants if grant.token in town.scheduler.leases])
    assert town.scheduler.jobs[late].ended is Outcome.DONE
    town.step(Beats(np.arange(2, dtype=np.int32)), after_s=10.0)
    assert town.scheduler.snapshot(town.now_s).value_over_bound == pytest.approx(0.25)


def test_a_day_of_jobs_is_bounded_in_less_than_50_ms_and_forgotten_after_it() -> None:
    of = fleet((100, {MODEL: 10.0, "big": 1.0}), (50, {MODEL: 5.0}))
    random = np.random.default_rng(1)
    hindsight = Hindsight(of)
    for now_s in np.arange(0.0, 86_400.0, 10.0).tolist():
        hindsight.look(now_s)
    came_s = np.sort(random.uniform(0.0, 80_000.0, 500))
    for came, lasts in zip(came_s.tolist(), random.uniform(60.0, 6000.0, 500).tolist(), strict=True):
        model, items = (MODEL, 100_000) if came % 2 < 1 else ("big", 3000)
        settled(hindsight, model, items, came, came + lasts, float(random.uniform(1, 10)), earned=lasts % 2 < 1)
    times_s = []
    for now_s in (86_400.0, 86_410.0, 86_420.0):
        hindsight.look(now_s)
        times_s.append(timeit.timeit(hindsight.ratio, number=1))
        ratio = hindsight.ratio()
        assert ratio is not None
        assert 0.2 < ratio < 1.0
    assert min(times_s) < 0.05
    for now_s in np.arange(86_430.0, 170_000.0, 10.0).tolist():
        hindsight.look(now_s)
    assert hindsight.ratio() is None


def test_earlier_deadlines_leave_less_room() -> None:
    def until(due_s: float) -> float:
        def jobs(hindsight: Hindsight) -> None:
            settled(hindsight, MODEL, 500, 0.0, 50.0, 1.0, earned=True)
            settled(hindsight, MODEL, 500, 0.0, due_s, 1.0, earned=False)

        ratio = watched(fleet((1, {MODEL: 10.0})), 100.0, jobs).ratio()
        assert ratio is not None
        return ratio

    ratios = [until(due_s) for due_s in (50.0, 70.0, 100.0)]
    assert ratios == pytest.approx([1.0, 1 / 1.4, 0.5])
    assert all(before > after for before, after in pairwise(ratios))


@pytest.mark.parametrize("seed", range(20))
def test_with_several_kinds_of_node_the_bound_is_not_below_the_linear_program(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(seed)
    rates = [{"a": 10.0, "b": 4.0}, {"a": 5.0, "b": 4.0, "c": 1.0}, {"c": 2.0}]
    nodes = random.integers(1, 4, 3).tolist()
    jobs = [
        (model, int(random.integers(1, 30) * rate * 10), begin, begin + length, float(random.uniform(1, 10)))
        for model, rate in (("a", 10.0), ("b", 4.0), ("c", 2.0)) * 3
        for begin, length in [(random.integers(0, 8) * 10.0, random.integers(1, 3) * 10.0)]
    ]
    spots = [
        (number, kind, time)
        for number, (model, _, begin, end, _) in enumerate(jobs)
        for kind in range(3)
        if model in rates[kind]
        for time in range(int(begin / 10), int(end / 10))
    ]  # node-seconds of a kind in ten seconds that a job gets
    done = [rates[kind][jobs[number][0]] for number, kind, _ in spots]
    limits = [[float(spot[1:] == (kind, time)) for spot in spots] for kind in range(3) for time in range(10)]
    limits += [
        [rate * (spot[0] == job) for spot, rate in zip(spots, done, strict=True)] for job in range(len(jobs))
    ]
    found = optimize.linprog(
        [-jobs[spot[0]][4] / jobs[spot[0]][1] * rate for spot, rate in zip(spots, done, strict=True)],
        A_ub=limits,
        b_ub=[10.0 * nodes[kind] for kind in range(3) for _ in range(10)] + [float(items) for _, items, *_ in jobs],
    )

    def lost(hindsight: Hindsight) -> None:
        for model, items, begin, end, value in jobs:
            settled(hindsight, model, items, begin, end, value, earned=False)
        settled(hindsight, "d", 1, 0.0, 100.0, 1.0, earned=True)

    everyone = [*zip(nodes, rates, strict=True), (1, {"d": 10.0})]
    ratio = watched(fleet(*everyone), 100.0, lost).ratio()
    assert ratio is not None
    bound = 1.0 / ratio - 1.0
    assert bound >= -found.fun - 1e-6
    assert bound <= 2.0 * -found.fun, "too far off to mean anything"
