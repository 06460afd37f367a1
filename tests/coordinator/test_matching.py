"""Matching: what cannot be cut goes where it is likely to end."""

import numpy as np

from coordinator.core.events import Habits, LotId, LotJoined, ModelSpeed, NodesOffered, SpeedsMeasured
from coordinator.core.explain import Obstacle
from coordinator.core.forecast import SHAPE, Cohort, Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import MODEL, Town

SETTINGS = SchedulingSettings(
    slices_in_hand=1, yields=False, plan_margin=1.0, plan_every_s=1.0, foresee_every_s=1.0
)
STEADY, FLEETING = 0, 1
HOURLY = 360_000.0  # work of an item that takes an hour


def town(settings: SchedulingSettings = SETTINGS) -> Town:
    """One that knows of nodes that stay for a day and of others that stay a quarter of an hour."""
    cohorts = tuple(
        Cohort(name, np.full(SHAPE, 1_000.0), np.full(SHAPE, 1_000.0 * stay_h))
        for name, stay_h in (("steady", 24.0), ("fleeting", 0.25))
    )
    return Town(scheduler=Scheduler(settings, epoch=1, forecast=Forecast(cohorts)))


def park(some: Town, *cohorts: int) -> None:
    """Cars of these cohorts, none of them with anything to do."""
    some.park(len(cohorts))
    offer(some, *cohorts)


def offer(some: Town, *cohorts: int) -> None:
    """These cars, from the first row on, are plugged in."""
    rows, size = np.arange(len(cohorts), dtype=np.int32), len(cohorts)
    habits = Habits(np.array(cohorts), np.full(size, 30.0), np.zeros(size), np.ones(size), np.zeros(size, np.bool_))
    some.step(NodesOffered(rows, np.full(size, some.now_s + 1e7), np.ones(size), habits))
    some.step(after_s=SETTINGS.foresee_every_s)


def test_of_free_nodes_a_long_item_goes_to_the_one_that_stays() -> None:
    some = town()
    park(some, FLEETING, STEADY, FLEETING)
    some.submit(1, item_work=HOURLY)
    assert [grant.node for grant in some.grants()] == [1]


def test_a_short_item_goes_anywhere() -> None:
    some = town()
    park(some, STEADY, FLEETING)
    for _ in range(2):
        some.submit(1)
        assert len(some.grants()) == 1


def test_a_node_that_leaves_soon_is_given_what_is_short() -> None:
    some = town()
    park(some, FLEETING, STEADY)
    long = some.submit(5, item_work=HOURLY, deadline_s=some.now_s + 9 * 3600.0)
    (first,) = some.grants()
    assert first.node == 1
    short = some.submit(1, item_work=HOURLY / 120)  # 30 s
    assert [(grant.node, grant.job) for grant in some.grants()] == [(0, short)]
    some.step(after_s=SETTINGS.plan_every_s)
    assert {lease.node for lease in some.scheduler.leases.values() if lease.job == long} == {1}


def test_where_all_leave_soon_long_items_are_lent_all_the_same() -> None:
    some = town()
    park(some, FLEETING, FLEETING)
    some.submit(2, item_work=HOURLY)
    assert len(some.scheduler.leases) == 2


def test_of_nodes_as_likely_to_stay_those_of_another_site_are_taken_first() -> None:
    some = town()
    rows = np.arange(4, dtype=np.int32)
    some.step(
        LotJoined(LotId(0), 1, rows, ("hw4",) * 4, np.full(4, 160.0), site=("depot", "depot", "garage", "depot")),
        SpeedsMeasured(LotId(0), {MODEL: ModelSpeed(100.0, 0.0, 8)}),
    )
    offer(some, STEADY, STEADY, STEADY, STEADY)
    some.submit(2, item_work=HOURLY)
    sites = [some.scheduler.fleet.site[lease.node] for lease in some.scheduler.leases.values()]
    assert len(set(sites)) == 2


def test_a_deadline_is_not_put_on_a_node_that_will_hardly_be_there() -> None:
    some = town()
    park(some, FLEETING, STEADY)
    job = some.submit(2, item_work=HOURLY, deadline_s=some.now_s + 4 * 3600.0)
    assert [lease.node for lease in some.scheduler.leases.values()] == [1]
    why = some.scheduler.explain_job(job, some.now_s)
    assert why is not None
    assert why.obstacles == {Obstacle.HANDS_FULL: 1, Obstacle.LEAVES_SOON: 1}


def test_without_a_forecast_windows_are_taken_at_their_word() -> None:
    some = Town(SETTINGS)
    some.park(2)
    some.submit(2, item_work=HOURLY)
    assert {grant.node for grant in some.grants()} <= {0, 1}
    assert len(some.scheduler.leases) == 2
