"""Matching: what cannot be cut goes where it is likely to end."""

from dataclasses import replace

import numpy as np

from coordinator.core.effects import Revoke
from coordinator.core.events import Beats, Habits, LotId, LotJoined, ModelSpeed, NodesOffered, SpeedsMeasured
from coordinator.core.explain import Obstacle
from coordinator.core.forecast import SHAPE, Cohort, Forecast
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import MODEL, Town

SETTINGS = SchedulingSettings(
    slices_in_hand=1, yields=False, plan_margin=1.0, plan_every_s=1.0, foresee_every_s=1.0
)
STEADY, FLEETING, SETTLED = 0, 1, 2
HOURLY = 360_000.0  # work of an item that takes an hour


def town(settings: SchedulingSettings = SETTINGS) -> Town:
    """One that knows of nodes that stay for about a day and of others that stay a quarter of an hour."""
    cohorts = tuple(
        Cohort(name, np.full(SHAPE, 1_000.0), np.full(SHAPE, 1_000.0 * stay_h))
        for name, stay_h in (("steady", 24.0), ("fleeting", 0.25), ("settled", 28.0))
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


def test_the_one_fit_node_is_found_behind_many_that_are_not() -> None:
    some = town()
    park(some, *[STEADY] * 60, *[FLEETING] * 100)  # of a bucket the last comes first
    some.submit(1, item_work=HOURLY, deadline_s=some.now_s + 4 * 3600.0)
    (lease,) = some.scheduler.leases.values()
    assert lease.node < 60


def test_a_short_job_is_not_hidden_by_long_ones_that_fit_nowhere() -> None:
    some = town()
    park(some, FLEETING, STEADY)
    for _ in range(20):
        some.submit(1, item_work=HOURLY, deadline_s=some.now_s + 9 * 3600.0)
    short = some.submit(1)
    assert {lease.node for lease in some.scheduler.leases.values() if lease.job == short} == {0}


def test_nodes_of_one_site_are_lent_to_the_most_urgent_job() -> None:
    some = town()
    rows = np.arange(9, dtype=np.int32)
    some.step(
        LotJoined(LotId(0), 1, rows, ("hw4",) * 9, np.full(9, 160.0), site=("depot",) * 9),
        SpeedsMeasured(LotId(0), {MODEL: ModelSpeed(100.0, 0.0, 8)}),
    )
    jobs = [some.submit(9, item_work=HOURLY, deadline_s=some.now_s + (4 + at) * 3600.0) for at in range(3)]
    offer(some, *[STEADY] * 9)
    assert {lease.job for lease in some.scheduler.leases.values()} == {jobs[0]}


def test_a_small_difference_does_not_put_off_a_deadline() -> None:
    some = town()
    jobs = [
        some.submit(4, item_work=hours * HOURLY, deadline_s=some.now_s + due_h * 3600.0)
        for hours, due_h in ((1.0, 4.0), (0.95, 200.0))
    ]
    park(some, STEADY, STEADY, SETTLED, SETTLED)
    assert {lease.job for lease in some.scheduler.leases.values()} == {jobs[0]}


def test_no_node_is_asked_back_for_an_item_that_it_would_not_be_lent() -> None:
    some = town(replace(SETTINGS, yields=True))
    park(some, FLEETING, STEADY)
    some.submit(100_000)
    some.submit(60, item_work=HOURLY, deadline_s=some.now_s + 70 * 3600.0)
    asked = [
        order.token
        for _ in range(20)
        for order in some.step(Beats(np.arange(2, dtype=np.int32)), after_s=SETTINGS.plan_every_s).send
        if isinstance(order, Revoke)
    ]
    assert {some.scheduler.leases[token].node for token in asked} <= {1}


def test_items_that_outlast_every_stay_are_lent_all_the_same() -> None:
    some = town()
    park(some, FLEETING, FLEETING)
    some.submit(2, item_work=4 * HOURLY, deadline_s=some.now_s + 20 * 3600.0)
    assert len(some.scheduler.leases) == 2


def test_without_a_forecast_windows_are_taken_at_their_word() -> None:
    some = Town(SETTINGS)
    some.park(2)
    some.submit(2, item_work=HOURLY)
    assert len(some.scheduler.leases) == 2


def test_a_long_answer_goes_to_a_node_that_stays_and_a_short_one_anywhere() -> None:
    some = town()
    park(some, FLEETING, STEADY, FLEETING)
    for _ in range(2):  # all are as free: the first is lent to the one that stays
        some.submit(1, interactive=True, item_work=1_000.0)
    first, second = (lease.node for lease in some.scheduler.leases.values())
    assert first == 1
    assert second != 1, "it is not as free any more"
    some.submit(1, interactive=True)
    assert len(some.grants()) == 1


def test_a_conversation_goes_on_where_it_was_unless_that_node_is_much_busier_or_gone() -> None:
    some = town()
    park(some, STEADY, FLEETING, STEADY)
    for _ in range(3):
        some.submit(1, interactive=True, prefer=1)
        assert [grant.node for grant in some.grants()] == [1]
    some.submit(1, interactive=True, prefer=1)
    (grant,) = some.grants()
    assert grant.node != 1, "it holds three more than others"
    some.unplug(1)
    some.submit(1, interactive=True, prefer=1)
    assert [grant.node != 1 for grant in some.grants()] == [True]
    some.submit(1, interactive=True, prefer=99)
    assert len(some.grants()) == 1, "a row that nobody has"
