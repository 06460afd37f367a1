"""The plan: which deadlines come in, what is recalled for them, what is loaded for them, and what is quoted."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from coordinator.core.arrivals import Arrivals
from coordinator.core.effects import Grant, Revoke
from coordinator.core.events import Beats, JobId, JobsCancelled, JobsClosed, JobSpec, LeaseEnd, LotId, NodesOffered
from coordinator.core.forecast import HOUR_S, SHAPE, Cohort, Forecast
from coordinator.core.job import Band, Job
from coordinator.core.queues import Queues, line_of
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from coordinator.core.shares import Shares
from coordinator.core.supply import foresee
from tests.coordinator.fleet import MODEL, Town

SETTINGS = SchedulingSettings(reserve=0.0, plan_tail=0.0, plan_margin=1.0)
LONG = replace(SETTINGS, slice_target_s=1000.0, slice_of_deadline=1.0, slices_in_hand=1)
OTHER = "whisper"


def band(town: Town, job: JobId) -> Band:
    return town.scheduler.jobs[job].band


def yielded(town: Town) -> Iterator[Revoke]:
    return (order for order in town.effects.send if isinstance(order, Revoke) and order.cause == "yield")


def spec(items: int, deadline_s: float, value: float) -> JobSpec:
    return JobSpec(JobId(99), "local", "grpc", MODEL, items, 100, False, deadline_s, value)


def test_what_is_worth_more_comes_in_and_the_rest_gets_what_is_left() -> None:
    town = Town(SETTINGS)
    town.park(1)  # 100 items a second
    cheap = town.submit(8_000, deadline_s=town.now_s + 100, value=8_000.0)
    town.step(after_s=SETTINGS.plan_every_s)
    assert band(town, cheap) is Band.PLANNED
    dear = town.submit(8_000, deadline_s=town.now_s + 100, value=32_000.0)
    town.step(after_s=SETTINGS.plan_every_s)
    assert (band(town, cheap), band(town, dear)) == (Band.SPARE, Band.PLANNED)


def test_what_is_half_done_is_worth_more_than_what_is_not_begun() -> None:
    town = Town(SETTINGS)
    town.park(1)
    begun = town.submit(4_000, deadline_s=town.now_s + 45)
    grants = town.grants()
    for _ in range(20):  # of a second each
        town.finish(grants.pop(0))
        grants += town.grants()
    other = town.submit(3_000, deadline_s=town.now_s + 46, value=3_300.0)
    town.step(after_s=SETTINGS.plan_every_s)
    assert (band(town, begun), band(town, other)) == (Band.PLANNED, Band.SPARE)


def test_a_deadline_that_nothing_can_make_is_left_out() -> None:
    town = Town(SETTINGS)
    town.park(1)
    long = town.submit(1, deadline_s=town.now_s + 10, item_work=2_000.0)  # 20 s on this car
    town.step(after_s=SETTINGS.plan_every_s)
    assert band(town, long) is Band.SPARE


def test_a_job_whose_model_nobody_knows_waits_by_its_deadline() -> None:
    town = Town(SETTINGS)
    town.park(1)
    job = town.submit(1, deadline_s=town.now_s + 10, model=OTHER)
    town.step(after_s=SETTINGS.plan_every_s)
    assert band(town, job) is Band.PLANNED


def test_long_items_are_planned_on_the_cars_that_finish_one_in_time() -> None:
    town = Town(SETTINGS)
    town.park(10, lot=0, first=0, items_per_s=1.0)
    town.park(1, lot=1, first=10, items_per_s=8.0)
    jobs = [town.submit(1, deadline_s=town.now_s + 100, item_work=480.0) for _ in range(2)]  # 60 s on the fast car
    town.step(after_s=SETTINGS.plan_every_s)
    assert sorted(band(town, job) for job in jobs) == [Band.PLANNED, Band.SPARE]


def test_room_is_kept_for_what_tends_to_come_and_is_worth_more() -> None:
    town = Town(replace(SETTINGS, reserve=1.0))
    town.park(1)
    for _ in range(20):
        dear = town.submit(6_000, deadline_s=town.now_s + 1e5, value=60_000.0)
        town.step(JobsCancelled((dear,)), JobsClosed((dear,)), Beats(np.zeros(1, np.int32)), after_s=10.0)
    cheap = spec(20_000, town.now_s + 300, 20_000.0)
    assert town.scheduler.quote(cheap, town.now_s).on_time < 0.5
    assert town.scheduler.quote(replace(cheap, value=400_000.0), town.now_s).on_time > 0.9


def test_arrivals_are_forgotten() -> None:
    arrivals = Arrivals()
    arrivals.note("a", 4.0, 3600.0, 0.0)
    assert arrivals.rate_above("a", 1.0) == pytest.approx(2.0)
    assert arrivals.rate_above("a", 4.0) == arrivals.rate_above("b", 1.0) == 0.0
    arrivals.note("a", 1.0, 1.0, 8 * 3600.0)
    assert arrivals.rate_above("a", 1.0) == pytest.approx(1800.0 / (8 * 3600.0))


def test_each_tenant_counts_on_its_share() -> None:
    town = Town(replace(SETTINGS, weights=(("big", 3.0),)))
    town.park(1)
    town.submit(1_000_000, tenant="small")  # has no deadline, wants all it can get
    at_most = spec(7_000, town.now_s + 100, 7_000.0)
    assert town.scheduler.quote(replace(at_most, tenant="big"), town.now_s).on_time > 0.5
    assert town.scheduler.quote(replace(at_most, tenant="other"), town.now_s).on_time < 0.5


def test_a_quote_counts_what_is_ahead() -> None:
    town = Town(SETTINGS)
    town.park(1)
    alone = town.scheduler.quote(spec(5_000, town.now_s + 100, 5_000.0), town.now_s)
    assert alone.finish_s - town.now_s == pytest.approx(50.0, rel=0.05)
    assert alone.on_time > 0.99
    town.submit(8_000, deadline_s=town.now_s + 90, value=80_000.0)
    behind = town.scheduler.quote(spec(5_000, town.now_s + 100, 5_000.0), town.now_s)
    assert behind.finish_s - town.now_s == pytest.approx(130.0, rel=0.1)
    assert behind.on_time < 0.05
    assert town.scheduler.quote(spec(5_000, inf, 1.0), town.now_s).on_time == 1.0
    nobody = replace(spec(1, town.now_s + 100, 1.0), model=OTHER)
    assert town.scheduler.quote(nobody, town.now_s).finish_s == inf


def test_an_urgent_job_takes_a_car_at_the_boundary_of_an_item() -> None:
    town = Town(LONG)
    town.park(1)
    town.submit(100_000)
    (long,) = town.grants()
    urgent = town.submit(1_000, deadline_s=town.now_s + 60)
    town.step(after_s=LONG.plan_every_s)
    assert [order.token for order in yielded(town)] == [long.token]
    town.step(after_s=LONG.plan_every_s)
    assert not list(yielded(town)), "it was asked back before"
    town.report(long.token, done=1, ended=LeaseEnd.YIELDED)
    assert [grant.job for grant in town.grants()] == [urgent]


@pytest.mark.parametrize("settings", [replace(LONG, yields=False), LONG])
def test_nothing_is_asked_back_for_a_job_that_has_time_or_by_one_that_may_not(settings: SchedulingSettings) -> None:
    town = Town(settings)
    town.park(1)
    town.submit(5_000, deadline_s=town.now_s + 60)
    town.submit(1_000, deadline_s=town.now_s + (50 if not settings.yields else 50_000))
    town.step(after_s=settings.plan_every_s)
    assert not list(yielded(town))


def test_a_heavy_model_is_loaded_for_an_earlier_deadline_only() -> None:
    town = Town(LONG)
    town.park(1, to_load={OTHER: 20.0})
    town.submit(150_000, deadline_s=town.now_s + 4_000)
    (first,) = town.grants()
    later = town.submit(1_000, deadline_s=town.now_s + 3_950, model=OTHER)
    town.finish(first)
    (second,) = town.grants()
    assert second.model == MODEL, "50 s are not worth a loading of 20 s"
    sooner = town.submit(1_000, deadline_s=town.now_s + 600, model=OTHER)
    town.step(after_s=LONG.plan_every_s)
    town.finish(second)
    assert [(grant.model, grant.job) for grant in town.grants()] == [(OTHER, sooner)]
    assert later != sooner


def test_a_heavy_model_is_loaded_where_nothing_waits_for_what_is_there() -> None:
    town = Town(LONG)
    town.park(1, to_load={OTHER: 20.0})
    town.submit(1_000_000, model=OTHER)
    town.step(after_s=LONG.plan_every_s)
    held = [lease.model for lease in town.scheduler.leases.values()]
    assert held == [OTHER]


def test_supply_is_what_is_here_now_and_what_the_forecast_says_of_later() -> None:
    often = Cohort("often", np.full(SHAPE, 1.0), np.full(SHAPE, 1.0))  # one leaves an hour
    forecast = Forecast((often,))
    town = Town(scheduler=Scheduler(SETTINGS, epoch=1, forecast=forecast))
    town.park(4)
    forecast.plugged_in(np.arange(4, dtype=np.int32), np.zeros(4, np.intp), np.zeros(4), town.now_s)
    supply = foresee(town.scheduler.state, town.now_s)
    (kind,) = supply.kinds.values()
    assert (kind.nodes, kind.strength, kind.rates[MODEL]) == (4.0, 1.0, 100.0)
    soon, later = (float(kind.work(horizon_s)) for horizon_s in (60.0, 2 * HOUR_S))
    assert soon == pytest.approx(240.0, rel=0.05)
    assert later < 0.8 * 4 * 2 * HOUR_S
    blind = Town(SETTINGS)
    blind.park(4)
    (same,) = foresee(blind.scheduler.state, blind.now_s).kinds.values()
    assert float(same.work(2 * HOUR_S)) == pytest.approx(4 * 2 * HOUR_S)


def test_slices_are_longer_in_a_large_fleet_and_shorter_before_a_deadline() -> None:
    def first(settings: SchedulingSettings, deadline_s: float = inf) -> int:
        town = Town(settings)
        town.park(1)
        town.submit(100_000, deadline_s=deadline_s)
        (grant, *_) = town.grants()
        assert isinstance(grant, Grant)
        return sum(count for _, count in grant.ranges)

    assert first(SETTINGS) == 100
    assert first(replace(SETTINGS, slices_per_s=0.1)) == 1_000
    assert first(replace(SETTINGS, slice_target_s=30.0), deadline_s=200.0) == 1_000


def test_a_model_that_is_kept_from_nodes_is_loaded_in_the_end() -> None:
    town = Town(replace(LONG, silent_after_s=inf))
    town.park(1, lot=0, first=0, models=(OTHER,), window_s=1e9)
    town.park(1, lot=1, first=1, to_load={OTHER: 60.0}, window_s=1e9)
    town.submit(1, model=OTHER)
    (grant,) = town.grants()
    assert grant.lot == 0
    town.report(grant.token, lot=0, errors=((0, "device", "it failed"),), ended=LeaseEnd.FINISHED)
    assert not town.grants(), "one item is not worth a loading, and it failed on the other car"
    waited_s = 0.0
    while not town.grants():
        town.step(after_s=LONG.plan_every_s)
        waited_s += LONG.plan_every_s
        assert waited_s < 1_000, "it waits for ever"
    assert [again.lot for again in town.grants()] == [1]


def test_a_queue_is_asked_again_when_the_plan_has_changed() -> None:
    town = Town(replace(LONG, silent_after_s=inf))
    town.park(1, to_load={OTHER: 20.0}, window_s=1e9)
    town.submit(1, model=MODEL)
    town.finish(town.grants()[0])
    town.submit(1_000_000, model=OTHER)
    town.step(after_s=LONG.plan_every_s)
    assert [lease.model for lease in town.scheduler.leases.values()] == [OTHER]


def test_a_tenant_whose_jobs_fit_nowhere_keeps_nobody_else_waiting() -> None:
    town = Town(SETTINGS)
    for _ in range(20):
        town.submit(1, tenant="huge", item_work=1e9)
    other = town.submit(100, tenant="modest")
    assert {grant.job for grant in town.park(1)} == {other}


def test_cars_that_may_not_be_lent_to_do_not_hide_others() -> None:
    town = Town(LONG)
    town.park(300, lot=0, first=0, items_per_s=200.0, to_load={OTHER: 60.0})
    town.park(1, lot=1, first=300, models=(OTHER,))
    town.submit(1, model=OTHER)
    assert [grant.lot for grant in town.grants()] == [1]


@pytest.mark.parametrize("item_work", [1e-308, 1e300])
@pytest.mark.parametrize("value", [1e-300, 1e300])
def test_absurd_figures_do_no_harm(item_work: float, value: float) -> None:
    town = Town(SETTINGS)
    town.park(1)
    town.submit(100, deadline_s=town.now_s + 100, item_work=item_work, value=value)
    town.step(after_s=SETTINGS.plan_every_s)
    assert 0.0 <= town.scheduler.quote(spec(1, town.now_s + 100, 1.0), town.now_s).on_time <= 1.0


def test_a_job_that_is_ranked_anew_again_and_again_leaves_no_trace() -> None:
    queues = Queues(Shares(()))
    jobs = [Job(spec(10, 100.0, 1.0), number, 0.0, ready=True) for number in range(10)]
    for job in jobs:
        queues.put(job)
    for turn in range(10_000):
        queues.rerank(jobs[turn % 10], Band.SPARE, -float(turn))
    (queue,) = queues.ready([0, 0])
    assert sum(map(len, queue.entries.values())) < 600
    assert queue.head() is jobs[9]


def test_a_job_of_which_only_what_went_wrong_is_left_stands_apart_until_more_comes_back() -> None:
    queues = Queues(Shares(()))
    job, later = (Job(spec(2, 100.0, 1.0), number, 0.0, ready=True) for number in range(2))
    job.trouble(0)
    for each in (job, later):
        queues.put(each)
    (queue,) = queues.ready([0, 0])
    job.open.take(2)
    job.lent = 2
    job.give_back(((0, 1),))
    queues.put(job)
    assert queue.head() is job
    assert list(queue.in_order(line_of(job))) == [job]
    assert queue.head({line_of(job)}) is later
    assert list(queue.in_order(line_of(later))) == [later]
    job.give_back(((1, 1),))
    queues.put(job)
    assert line_of(job) == line_of(later)
    assert list(queue.in_order(line_of(job))) == [job, later]


def test_patience_is_with_work_that_waits_now() -> None:
    town = Town(replace(LONG, silent_after_s=inf, lease_least_s=1e9))
    town.park(1, lot=0, first=0, models=(OTHER,), window_s=1e9)
    town.submit(1_000, model=OTHER)
    assert len(town.grants()) == 1, "the car that has the model is at work"
    town.park(1, lot=1, first=1, to_load={OTHER: 60.0}, window_s=1e9)
    for _ in range(2):
        job = town.submit(1, model=OTHER)
        town.step(after_s=LONG.plan_every_s)
        assert len(town.scheduler.leases) == 1, "one item is not worth a loading yet"
        town.step(JobsCancelled((job,)), JobsClosed((job,)))
        town.step(after_s=10_000.0)


def test_a_tenant_that_was_lent_less_is_passed_by_when_nodes_are_asked_back() -> None:
    town = Town(replace(LONG, weights=(("poor", 4.0),)))
    town.park(1, lot=0, first=0)
    rich = town.submit(4_000)
    town.park(1, lot=1, first=1)
    poor = town.submit(4_000, tenant="poor")
    held = {lease.job: lease.token for lease in town.scheduler.leases.values()}
    assert held.keys() == {rich, poor}
    town.submit(1_000, deadline_s=town.now_s + 60)
    town.step(after_s=LONG.plan_every_s)
    assert [order.token for order in yielded(town)] == [held[rich]]


def test_of_cars_alike_the_cheapest_is_lent_to() -> None:
    town = Town(LONG)
    town.park(3)
    rows = np.arange(3, dtype=np.int32)
    town.step(NodesOffered(rows, np.full(3, town.now_s + 36_000.0), np.ones(3), None, np.array([0.3, 0.1, 0.2])))
    for row in (1, 2, 0):
        town.submit(1)
        assert [grant.node for grant in town.grants()] == [row]


def test_a_job_that_had_nothing_to_place_for_a_while_is_found_again() -> None:
    queues = Queues(Shares(()))
    idle, busy = (Job(spec(10, 100.0, 1.0), number, 0.0, ready=True) for number in range(2))
    for job in (idle, busy):
        queues.put(job)
    idle.carve(10, LotId(0), choosy=False)  # all of it is lent
    for turn in range(1_000):
        queues.rerank(busy, Band.SPARE, -float(turn))
    idle.give_back(((0, 10),))
    queues.put(idle)
    (queue,) = queues.ready([0, 0])
    assert queue.head() is idle
