"""What the core promises: facts in, orders out."""

import itertools
from collections import Counter
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from coordinator.core.effects import (
    Acknowledge,
    Disconnect,
    Drain,
    Drop,
    EndRecord,
    FailureRecord,
    Grant,
    JobRecord,
    Outcome,
    Record,
    ResultsRecord,
    Revoke,
)
from coordinator.core.events import (
    Beats,
    Cause,
    HeldLease,
    JobsCancelled,
    JobsClosed,
    LeaseEnd,
    LotId,
    LotJoined,
    LotLeft,
    LotLost,
    NodesCordoned,
    NodesDrained,
    NodesLeft,
    NodesOffered,
    Progressed,
    Rows,
    Token,
)
from coordinator.core.placement import MOST_ITEMS
from coordinator.core.scheduler import Scheduler
from coordinator.core.settings import SchedulingSettings
from tests.coordinator.fleet import MODEL, Town, items_of

SETTINGS = SchedulingSettings()


def rows(*numbers: int) -> Rows:
    return np.array(numbers, np.int32)


def test_a_job_is_cut_into_slices_that_cover_it_exactly() -> None:
    town = Town()
    town.park(cars=3)
    job = town.submit(1000)
    first = town.grants()
    assert {grant.node for grant in first} == {0, 1, 2}
    seen = [item for grant in first for item in items_of(grant)]
    while first:
        town.finish(first.pop(0))
        first.extend(town.grants())
        seen.extend(item for grant in town.grants() for item in items_of(grant))
    assert sorted(seen) == list(range(1000))
    assert town.effects.save[-1] == EndRecord(job, Outcome.DONE)


def test_the_next_slice_is_on_the_car_before_the_last_one_ends() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(1000)
    assert [grant.node for grant in town.grants()] == [0, 0]


def test_slices_shrink_towards_the_end_of_a_job() -> None:
    town = Town()
    town.park(cars=2)
    town.submit(600)
    grants, sizes = town.grants(), []
    while grants:
        grant = grants.pop(0)
        sizes.append(len(items_of(grant)))
        town.finish(grant)
        grants.extend(town.grants())
    assert sizes[0] == 100
    assert sizes[-1] <= 8
    assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))


def test_a_slice_fits_into_what_remains_of_the_window() -> None:
    town = Town()
    town.park(cars=1, window_s=0.5)
    town.submit(1000)
    assert sum(len(items_of(grant)) for grant in town.grants()[:1]) <= 0.5 * 100 * SETTINGS.window_margin


def test_work_that_does_not_fit_before_unplugging_is_not_lent() -> None:
    town = Town()
    town.park(cars=1, items_per_s=0.01, window_s=60.0)
    town.submit(3)
    assert not town.grants()
    town.park(cars=1, lot=1, first=1, items_per_s=0.01, window_s=600.0)
    assert {grant.node for grant in town.grants()} == {1}


def test_a_lease_never_holds_more_than_4096_items_or_2_mib() -> None:
    town = Town()
    town.park(cars=1, items_per_s=1e6)
    town.submit(20_000)
    assert len(items_of(town.grants()[0])) == MOST_ITEMS
    town = Town()
    town.park(cars=1, items_per_s=1e6)
    town.submit(20_000, item_bytes=100_000)
    assert len(items_of(town.grants()[0])) == SETTINGS.slice_bytes // 100_000


def test_interactive_work_goes_before_batch() -> None:
    town = Town()
    town.submit(10)
    request = town.submit(1, interactive=True)
    grants = town.park(cars=1)
    assert grants[0].job == request
    assert grants[0].interactive


def test_interactive_work_needs_no_free_batch_place() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(100_000)
    town.submit(1, interactive=True)
    assert len(town.grants()) == 1


def test_the_earliest_deadline_goes_first() -> None:
    town = Town()
    town.submit(1, deadline_s=1000.0)
    urgent = town.submit(1, deadline_s=500.0)
    town.submit(1)
    assert town.park(cars=1)[0].job == urgent


def test_a_departure_costs_only_the_items_that_were_not_done() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(40)
    grant = town.grants()[0]
    town.report(grant.token, done=0b111, running=0b11000)
    town.report(grant.token, ended=LeaseEnd.UNPLUGGED, lost_s=0.02)
    town.unplug(0)
    left = town.scheduler.jobs[job]
    assert (left.done, left.open.count) == (3, 37)
    assert town.scheduler.tally.departures["unplugged", "hw4"] == 1
    town.work_off(town.park(cars=1, lot=1, first=1))
    assert town.effects.save[-1] == EndRecord(job, Outcome.DONE)


def test_a_late_result_under_an_old_token_changes_nothing() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(4)
    grant = town.grants()[0]
    town.unplug(0)
    effects = town.report(grant.token, done=1)
    assert not effects.save
    assert effects.send == [Revoke(LotId(0), grant.token, "unknown")]
    assert town.scheduler.tally.results_rejected["stale_token"] == 1


def test_a_lot_cannot_report_on_another_lots_lease() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(4)
    grant = town.grants()[0]
    town.park(cars=1, lot=1, first=1)
    assert not town.report(grant.token, lot=1, done=1).save


def test_a_result_counts_once_however_often_it_is_sent() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(100)
    grant = town.grants()[0]
    effects = town.report(grant.token, done=0b11)
    assert effects.save == [ResultsRecord(grant.job, 1, grant.ranges, 0b11, 0b11)]
    assert effects.acknowledge == [Acknowledge(LotId(0), 1)]
    again = town.report(grant.token, done=0b110)
    assert again.save == [ResultsRecord(grant.job, 2, grant.ranges, 0b110, 0b100)]
    assert town.scheduler.tally.results_rejected["duplicate"] == 1


def test_what_a_request_took_is_told_at_its_end_with_what_was_thrown_away_and_each_message_once() -> None:
    town = Town()
    town.park(cars=2)
    town.submit(1, interactive=True)
    (first,) = town.grants()
    town.report(first.token, sequence=7, ended=LeaseEnd.UNPLUGGED, lost_s=2.0)
    (second,) = town.grants()
    town.report(first.token, sequence=7, ended=LeaseEnd.UNPLUGGED, lost_s=2.0)
    end = town.report(second.token, sequence=8, done=1, useful_s=0.1).answer[-1]
    assert end == EndRecord(first.job, Outcome.DONE, ((first.token, 2.0), (second.token, 0.1)))


def test_a_message_sent_again_after_a_reconnection_is_acknowledged_and_ignored() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(100)
    grant = town.grants()[0]
    town.report(grant.token, sequence=7, done=1, useful_s=1.0)
    effects = town.report(grant.token, sequence=7, done=1, useful_s=1.0)
    assert not effects.save
    assert effects.acknowledge == [Acknowledge(LotId(0), 7)]
    assert town.scheduler.tally.accelerator_s["hw4", "useful"] == 1.0


def test_a_lease_without_a_report_runs_out_and_its_items_go_back() -> None:
    town = Town(replace(SETTINGS, silent_after_s=1e9))
    town.park(cars=1)
    job = town.submit(5)
    grant = town.grants()[0]
    effects = town.step(after_s=grant.lease_s)
    assert Revoke(LotId(0), grant.token, "expired") in effects.send
    assert town.scheduler.tally.leases["expired", "hw4"] == 1
    assert {again.job for again in town.grants()} == {job}, "the items are lent again"


def test_a_report_prolongs_the_lease() -> None:
    town = Town(replace(SETTINGS, silent_after_s=1e9))
    town.park(cars=1)
    town.submit(200)
    grant = town.grants()[0]
    town.report(grant.token, running=1, after_s=grant.lease_s - 1)
    town.step(after_s=2.0)
    assert grant.token in town.scheduler.leases


def test_a_silent_car_is_noticed_within_15_seconds_and_its_link_is_broken() -> None:
    town = Town()
    town.park(cars=2)
    town.submit(5)
    silent_s = 0.0
    effects = town.effects
    while not any(isinstance(order, Disconnect) for order in effects.send):
        silent_s += 1.0
        assert silent_s <= 15
        effects = town.step(after_s=1.0)
    assert not town.scheduler.leases
    assert town.scheduler.tally.departures["silent", "hw4"] == 2


def test_a_heartbeat_keeps_a_car() -> None:
    town = Town()
    town.park(cars=1)
    for _ in range(10):
        town.step(Beats(rows(0)), after_s=5.0)
    assert town.scheduler.fleet.present[0]


def test_a_lot_that_comes_back_within_the_grace_keeps_its_leases() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(10)
    grants = town.grants()
    held = tuple(HeldLease(grant.token, 0, job, MODEL, grant.ranges, 0) for grant in grants)
    town.step(LotLost(LotId(0)))
    assert town.scheduler.leases, "a broken link is not yet a loss"
    town.park(cars=1, held=held)
    assert town.scheduler.leases.keys() == {grant.token for grant in grants}


def test_a_lot_with_a_broken_link_gets_no_new_work() -> None:
    town = Town()
    town.park(cars=1)
    town.step(LotLost(LotId(0)))
    town.submit(10)
    assert not town.grants()


def test_a_grant_that_never_arrived_goes_back_when_the_lot_joins_again() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(1)
    (grant,) = town.grants()
    town.step(LotLost(LotId(0)))
    (again,) = town.park(cars=1, held=())
    assert again.token != grant.token


def test_a_lease_that_had_ended_when_its_lot_came_back_is_not_held_for_it() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(10)
    grant, *_ = town.grants()
    town.report(grant.token, sequence=1, ended=LeaseEnd.UNPLUGGED)
    town.unplug(0)
    town.step(LotLost(LotId(0)))  # before it heard that its message had come
    held = HeldLease(grant.token, 0, job, MODEL, grant.ranges, 0)
    town.step(LotJoined(LotId(0), 1, np.array([0], np.int32), ("hw4",), np.array([160.0]), (held,)))
    assert grant.token in town.scheduler.leases
    town.report(grant.token, sequence=1, ended=LeaseEnd.UNPLUGGED)  # told again
    assert grant.token not in town.scheduler.leases
    assert town.scheduler.jobs[job].placeable == 10


def test_a_lease_that_is_not_known_is_dropped_by_the_welcome() -> None:
    town = Town()
    zombie = HeldLease(Token(1, 99), 0, town.submit(10), MODEL, ((0, 5),), 0)
    town.step(JobsCancelled((zombie.job,)))
    town.park(cars=1, held=(zombie,))
    town_orders = town.scheduler.handle((), town.now_s).send
    assert not town_orders
    assert zombie.token not in town.scheduler.leases


def test_the_welcome_names_dropped_leases() -> None:
    town = Town()
    zombie = HeldLease(Token(1, 99), 0, town.submit(10), MODEL, ((0, 5),), 0)
    town.step(JobsCancelled((zombie.job,)))
    town.park(cars=1, held=(zombie,))
    assert [order for order in town.effects.send if isinstance(order, Drop)] == [Drop(LotId(0), (zombie.token,))]


def test_after_a_restart_running_work_is_adopted_and_not_redone() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(100)
    grant = town.grants()[0]
    saved = [*town.report(grant.token, done=0b1111).save]
    spec = town.scheduler.jobs[job].spec
    after = Town(scheduler=Scheduler.restore(SETTINGS, 2, [JobRecord(spec), *saved], town.now_s))
    items = len(items_of(grant))
    held = HeldLease(grant.token, 0, job, MODEL, grant.ranges, 0b11111)
    grants = after.park(cars=1, held=(held,))
    assert grant.token in after.scheduler.leases
    assert not set(items_of(grant)) & {item for other in grants for item in items_of(other)}
    effects = after.report(grant.token, done=((1 << items) - 1) & ~0b1111, ended=LeaseEnd.FINISHED)
    assert effects.save, "the first result for an open item wins"
    assert after.scheduler.jobs[job].done == items


def test_an_item_that_fails_is_tried_elsewhere_and_then_fails_alone() -> None:
    town = Town()
    town.park(cars=1)
    town.park(cars=1, lot=1, first=1)
    job = town.submit(1)
    nodes = []
    failures: list[Record] = []
    while grants := town.grants():
        (grant,) = grants
        nodes.append(grant.node)
        effects = town.report(
            grant.token, lot=grant.lot, errors=((0, "device", f"error {len(nodes)}"),), ended=LeaseEnd.FINISHED
        )
        failures.extend(effects.save)
    assert nodes == [nodes[0], 1 - nodes[0], nodes[0]]
    assert failures == [FailureRecord(job, 0, "device", "error 3"), EndRecord(job, Outcome.DONE)]


def test_elsewhere_is_another_process_where_there_is_one() -> None:
    town = Town()
    town.park(cars=3)
    town.park(cars=1, lot=1, first=3)
    town.submit(1)
    lots = []
    while grants := town.grants():
        (grant,) = grants
        lots.append(grant.lot)
        town.report(grant.token, lot=grant.lot, errors=((0, "device", "broken"),), ended=LeaseEnd.FINISHED)
    assert lots in ([0, 1, 0], [1, 0, 1])


def test_a_lot_that_dies_before_it_offers_gives_back_what_was_adopted() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(4)
    (grant, *_) = town.grants()
    after = Town(scheduler=Scheduler.restore(SETTINGS, 2, [JobRecord(town.scheduler.jobs[job].spec)], town.now_s))
    held = HeldLease(grant.token, 0, job, MODEL, grant.ranges, 0)
    row = np.array([0], np.int32)
    after.step(LotJoined(LotId(0), 1, row, ("hw4",), np.array([160.0]), (held,)))
    assert after.scheduler.jobs[job].lent == len(items_of(grant))
    after.kill()
    assert after.scheduler.jobs[job].lent == 0
    after.work_off(after.park(cars=1, incarnation=2))
    assert after.scheduler.jobs[job].done == 4


def test_a_lease_of_another_model_is_not_adopted() -> None:
    town = Town()
    job = town.submit(4)
    held = HeldLease(Token(9, 9), 0, job, "other", ((0, 4),), 0b1111)
    town.park(cars=1, held=(held,), models=(MODEL, "other"))
    assert held.token not in town.scheduler.leases


def test_a_drain_that_a_broken_link_swallowed_is_said_again() -> None:
    town = Town()
    town.park(cars=2)
    row = np.array([1], np.int32)
    town.step(LotLost(LotId(0)))
    town.step(NodesDrained(row))
    rows = np.array([0, 1], np.int32)
    effects = town.step(LotJoined(LotId(0), 1, rows, ("hw4",) * 2, np.full(2, 160.0), ()))
    # What is sent before the welcome is void.
    assert effects.send == [Drop(LotId(0), ()), Drain(LotId(0), (1,))]


def test_a_car_that_was_taken_for_lost_alone_and_beats_again_is_offered_anew() -> None:
    town = Town()
    town.park(cars=2)
    town.step(Beats(np.array([0], np.int32)), after_s=5.0)
    town.step(after_s=8.0)
    assert town.scheduler.fleet.present[:2].tolist() == [True, False]
    both = np.array([0, 1], np.int32)
    assert town.step(Beats(both)).send == [Disconnect(LotId(0))]
    assert town.step(Beats(both)).send == []


def test_a_job_is_forgotten_once_its_end_is_recorded() -> None:
    town = Town()
    job = town.submit(4)
    town.work_off(town.park(cars=1))
    assert town.scheduler.jobs[job].ended is Outcome.DONE
    town.step(JobsClosed((job,)))
    assert job not in town.scheduler.jobs


def test_the_neighbours_of_a_failing_item_succeed() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(4)
    grants, saved = town.grants(), []
    while grants:
        grant = grants.pop(0)
        items = items_of(grant)
        bad = [offset for offset, item in enumerate(items) if item == 2]
        errors = tuple((offset, "model", "no") for offset in bad)
        done = sum(1 << offset for offset in range(len(items)) if offset not in bad)
        saved.extend(town.report(grant.token, done=done, errors=errors, ended=LeaseEnd.FINISHED).save)
        grants.extend(town.grants())
    assert saved[-2:] == [FailureRecord(job, 2, "model", "no"), EndRecord(job, Outcome.DONE)]
    assert town.scheduler.jobs[job].done == 3


def test_bad_input_is_not_tried_again() -> None:
    town = Town()
    town.park(cars=2)
    town.submit(1)
    (grant,) = town.grants()
    effects = town.report(grant.token, errors=((0, "bad_input", "no picture"),), ended=LeaseEnd.FINISHED)
    assert FailureRecord(grant.job, 0, "bad_input", "no picture") in effects.save


def test_departures_do_not_count_towards_the_cap() -> None:
    town = Town()
    job = town.submit(1)
    for _ in range(3 * SETTINGS.item_attempts):
        town.park(cars=1)
        town.unplug(0)
    town.work_off(town.park(cars=1))
    assert town.scheduler.jobs[job].done == 1


def test_what_ran_when_a_process_died_is_tried_alone_and_the_rest_is_not() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(50)
    grant = town.grants()[0]
    town.report(grant.token, done=0b1, running=0b110)
    town.kill()
    grants = town.park(cars=1, incarnation=2)
    town.park(cars=1, lot=1, first=1)
    grants += town.grants()
    alone = {items_of(grant)[0] for grant in grants if grant.solo}
    while grants:
        grant = grants.pop(0)
        town.finish(grant)
        grants.extend(town.grants())
        alone.update(items_of(later)[0] for later in town.grants() if later.solo)
    suspects = {1, 2}
    assert alone == suspects


def test_two_deaths_alone_fail_the_item_and_only_it() -> None:
    town = Town()
    job = town.submit(20)
    poison, deaths = 3, 0
    grants = town.park(cars=1, incarnation=1)
    saved: list[Record] = []
    for incarnation in range(2, 200):
        if not grants:
            break
        grant = grants.pop(0)
        items = items_of(grant)
        if poison in items:
            offset = items.index(poison)
            town.report(grant.token, done=(1 << offset) - 1, running=1 << offset)
            deaths += 1
            town.step(LotLost(LotId(0)))
            saved.extend(town.step(after_s=SETTINGS.reconnect_grace_s).save)
            town._sequences.clear()
            grants = town.park(cars=1, incarnation=incarnation)
        else:
            saved.extend(town.finish(grant).save)
            grants.extend(town.grants())
    assert deaths == 1 + SETTINGS.item_deaths, "once among others, then alone"
    assert [record.item for record in saved if isinstance(record, FailureRecord)] == [poison]
    assert town.scheduler.jobs[job].done == 19


def test_a_death_during_a_solo_item_blames_nothing_else() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(1)
    (grant,) = town.grants()
    town.report(grant.token, running=1)
    town.kill()
    town._sequences.clear()
    (solo,) = town.park(cars=1, incarnation=2)
    assert solo.solo
    other = town.submit(30)
    town.report(solo.token, running=1)
    town.kill()
    assert not town.scheduler.jobs[other].troubles


def test_a_departure_that_is_told_again_does_not_take_a_car_that_is_back() -> None:
    town = Town()
    town.park(1)
    town.submit(1000)
    left = NodesLeft(rows(0), np.array([Cause.UNPLUGGED], np.uint8))
    town.step(Progressed(LotId(0), 1, (), left))
    assert not town.scheduler.fleet.capable(MODEL)
    town.step(NodesOffered(rows(0), np.array([town.now_s + 3600.0]), np.ones(1)))
    held = {grant.token for grant in town.grants()}
    effects = town.step(Progressed(LotId(0), 1, (), left))
    assert effects.acknowledge == [Acknowledge(LotId(0), 1)]
    assert held
    assert set(town.scheduler.leases) == held


def test_a_job_whose_last_items_fail_by_one_death_ends() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(2)
    grants = town.grants()
    for incarnation in range(2, 4 + SETTINGS.item_deaths):
        for grant in grants:
            town.report(grant.token, running=(1 << len(items_of(grant))) - 1)
        town.kill()
        town._sequences.clear()
        grants = town.park(cars=1, incarnation=incarnation)
        assert not grants or all(grant.solo for grant in grants)
    assert town.scheduler.jobs[job].failed == 2
    assert town.scheduler.jobs[job].ended is Outcome.DONE


def test_an_interactive_request_past_its_deadline_ends_and_frees_the_car() -> None:
    town = Town()
    town.park(cars=1)
    request = town.submit(1, interactive=True, deadline_s=town.now_s + 2.0)
    (grant,) = town.grants()
    effects = town.step(after_s=2.0)
    assert effects.answer == [EndRecord(request, Outcome.EXPIRED)]
    assert Revoke(LotId(0), grant.token, "expired") in effects.send
    assert request not in town.scheduler.jobs


def test_a_batch_job_past_its_deadline_goes_on_and_is_counted() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(10, deadline_s=town.now_s + 2.0)
    town.step(after_s=3.0)
    assert town.scheduler.jobs[job].ended is None
    assert town.scheduler.tally.deadlines_missed["batch"] == 1


def test_a_cancelled_job_gives_its_cars_back() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(1000)
    tokens = {grant.token for grant in town.grants()}
    effects = town.step(JobsCancelled((job,)))
    assert {order.token for order in effects.send if isinstance(order, Revoke)} == tokens
    assert effects.save == [EndRecord(job, Outcome.CANCELLED)]
    assert not town.scheduler.leases


def test_a_cordoned_car_gets_no_new_work_until_it_is_freed() -> None:
    town = Town()
    town.park(cars=1)
    town.step(NodesCordoned(rows(0), True))
    town.submit(1)
    assert not town.grants()
    town.step(NodesCordoned(rows(0), False))
    assert len(town.grants()) == 1


def test_a_drained_car_finishes_what_it_holds() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(1)
    (grant,) = town.grants()
    effects = town.step(NodesDrained(rows(0)))
    assert effects.send == [Drain(LotId(0), (0,))]
    assert grant.token in town.scheduler.leases
    town.submit(1)
    assert not town.grants()


def test_a_withdrawn_offer_keeps_its_leases() -> None:
    town = Town()
    town.park(cars=1)
    town.submit(1)
    town.step(NodesOffered(rows(0), np.array([inf]), np.zeros(1)))
    assert town.scheduler.leases
    town.submit(1)
    assert not town.grants()


def test_a_lot_that_says_goodbye_leaves_no_suspicion() -> None:
    town = Town()
    town.park(cars=1)
    job = town.submit(10)
    town.report(town.grants()[0].token, running=1)
    town.step(LotLeft(LotId(0)))
    assert not town.scheduler.jobs[job].troubles
    assert town.scheduler.tally.departures["drained", "hw4"] == 1


def test_restore_gives_back_what_was_saved() -> None:
    town = Town()
    town.park(cars=2)
    job = town.submit(300)
    records: list[Record] = [JobRecord(town.scheduler.jobs[job].spec)]
    grants = town.grants()
    for grant in grants:
        records.extend(town.report(grant.token, done=0b1011).save)
    restored = Scheduler.restore(SETTINGS, 2, records, town.now_s)
    restored.validate()
    assert restored.jobs[job].done == 3 * len(grants)
    after = Town(scheduler=restored)
    after.work_off(after.park(cars=1))
    assert after.effects.save[-1] == EndRecord(job, Outcome.DONE)


def test_an_idle_core_asks_to_be_woken_for_silence_and_nothing_else() -> None:
    town = Town()
    assert town.scheduler.next_wakeup_s() is None
    town.park(cars=1)
    town.submit(1)
    wakeup_s = town.scheduler.next_wakeup_s()
    assert wakeup_s is not None
    assert town.now_s < wakeup_s <= town.now_s + 1.0


@pytest.mark.parametrize("cars", [1, 50])
def test_a_lot_of_jobs_of_one_item_all_get_a_car(cars: int) -> None:
    town = Town()
    town.park(cars=cars)
    grants = []
    for _ in range(3 * cars):
        town.submit(1)
        grants.extend(town.grants())
    assert len(grants) == 2 * cars, "each car holds two slices"
    town.work_off(grants)
    assert all(job.ended is Outcome.DONE for job in town.scheduler.jobs.values())


def test_many_cars_that_change_at_once_stand_where_they_belong() -> None:
    town = Town()
    town.park(200)
    town.park(200, lot=1, first=200, items_per_s=10.0)
    town.submit(100_000)
    rows = np.arange(400, dtype=np.int32)
    for turn in range(1, 5):
        until_s = (town.now_s + 40.0 * (rows * turn % 977 + 1)).astype(np.float64)
        town.step(NodesOffered(rows[::-1], until_s, ((rows + turn) % 3 * 0.5).astype(np.float64)))
        town.step(NodesCordoned(rows[turn::2], turn % 2 == 1))
        town.step(LotLost(LotId(turn % 2)))
        town.park(200, lot=turn % 2, first=turn % 2 * 200)
    fleet = town.scheduler.fleet
    assert 0 < fleet.capable(MODEL) == sum(map(fleet.serves, range(400))) < 400


def test_rows_that_come_twice_or_never_joined_do_no_harm() -> None:
    town = Town()
    town.park(100)
    town.step(NodesCordoned(np.repeat(np.arange(100, dtype=np.int32), 2), True))
    assert town.scheduler.fleet.capable(MODEL) == 0
    town.step(NodesCordoned(np.arange(100, dtype=np.int32), False))
    assert town.scheduler.fleet.capable(MODEL) == 100


def lent_items(town: Town, grants: list[Grant], steps: int) -> Counter[str]:
    """Finish so many slices, one after the other; the items that were lent meanwhile, by tenant."""
    lent: Counter[str] = Counter()
    for _ in range(steps):
        town.finish(grants.pop(0))
        for grant in town.grants():
            lent[town.scheduler.jobs[grant.job].spec.tenant] += len(items_of(grant))
            grants.append(grant)
    return lent


def test_tenants_share_the_fleet_by_their_weights_however_many_jobs_they_have() -> None:
    town = Town(SchedulingSettings(weights=(("heavy", 3.0),)))
    for _ in range(20):
        town.submit(1_000, tenant="many")
    town.submit(40_000, tenant="heavy")
    town.submit(20_000, tenant="one")
    lent = lent_items(town, town.park(4), 150)
    assert lent["many"] == pytest.approx(lent["one"], rel=0.1)
    assert lent["heavy"] == pytest.approx(3 * lent["one"], rel=0.1)


def test_a_tenant_saves_nothing_up_while_it_has_no_work() -> None:
    town = Town()
    town.submit(40_000, tenant="busy")
    grants = town.park(4)
    lent_items(town, grants, 100)
    town.submit(20_000, tenant="late")
    lent = lent_items(town, grants, 100)
    assert lent["late"] == pytest.approx(lent["busy"], rel=0.1)


def test_a_tenant_that_waits_keeps_its_turn_when_it_hands_in_more() -> None:
    town = Town()
    for tenant in ("one", "other"):
        town.submit(40_000, tenant=tenant)
    grants = town.park(4)
    for _ in range(20):
        town.submit(100, interactive=True, tenant="chat")
        for grant in town.grants():
            town.finish(grant)
    town.submit(10, tenant="one")
    lent = lent_items(town, grants, 100)
    assert lent["one"] == pytest.approx(lent["other"], rel=0.1)


def test_jobs_that_wait_for_another_lot_do_not_cost_their_tenant_its_turn() -> None:
    town = Town()
    town.park(1)
    town.park(1, lot=1, first=1, window_s=0.001)  # nothing fits there
    for _ in range(20):
        town.submit(1, tenant="unlucky")
        (grant,) = town.grants()
        town.report(grant.token, errors=((0, "model", "it raised"),), ended=LeaseEnd.FINISHED)
        assert not town.grants(), "it waits for the other lot"
    town.submit(20_000, tenant="other")
    grants = town.grants()
    town.submit(20_000, tenant="unlucky")
    lent = lent_items(town, grants, 100)
    assert lent["unlucky"] == pytest.approx(lent["other"], rel=0.1)
    town.step(NodesOffered(rows(1), np.array([town.now_s + 36_000.0]), np.ones(1)))
    town.work_off(grants + town.grants())
    assert all(job.ended is Outcome.DONE for job in town.scheduler.jobs.values())


def test_a_tenant_does_not_pay_for_what_its_cars_took_away() -> None:
    town = Town()
    town.submit(20_000)
    (first, _) = town.park(1)
    shares = town.scheduler.state.shares
    assert shares.lent("local") == pytest.approx(2.0)
    town.report(first.token, done=(1 << 50) - 1)
    town.unplug(0)
    assert shares.lent("local") == pytest.approx(0.5)


def test_a_job_that_the_plan_has_no_room_for_is_at_risk_until_it_ends() -> None:
    town = Town()
    lost = town.submit(10, deadline_s=town.now_s + 1000, model="none")
    town.park(1)  # 100 items a second
    first = town.submit(60_000, deadline_s=town.now_s + 900)
    second = town.submit(60_000, deadline_s=town.now_s + 1000)
    town.submit(10)
    town.submit(1, interactive=True, deadline_s=town.now_s + 10)
    town.step(Beats(rows(0)), after_s=SETTINGS.plan_every_s)
    assert town.scheduler.snapshot(town.now_s).deadlines_at_risk == {"interactive": 0, "batch": 2}
    town.step(JobsCancelled((lost, first)))
    assert town.scheduler.snapshot(town.now_s).deadlines_at_risk["batch"] == 1
    town.step(Beats(rows(0)), after_s=SETTINGS.plan_every_s)
    assert town.scheduler.snapshot(town.now_s).deadlines_at_risk["batch"] == 0, "there is room for it now"
    town.step(after_s=1000.0)
    assert town.scheduler.snapshot(town.now_s).deadlines_at_risk["batch"] == 1, "it is late"
    town.step(JobsCancelled((second,)))
    assert town.scheduler.snapshot(town.now_s).deadlines_at_risk["batch"] == 0


def test_an_answer_that_was_being_said_when_its_process_died_is_suspected_only_the_second_time() -> None:
    town = Town()
    town.park(1, lot=0)
    said, unsaid = town.submit(1, interactive=True), town.submit(1, interactive=True)
    speaks = {lease.job: lease.token for lease in town.scheduler.leases.values()}[said]
    town.report(speaks, sequence=0, spoke=True)
    town.kill(0)
    again = {grant.job: grant.solo for grant in town.park(1, lot=1, first=1)}
    assert again == {said: False, unsaid: True}
    speaks = {lease.job: lease.token for lease in town.scheduler.leases.values()}[said]
    town.report(speaks, lot=1, sequence=0, spoke=True)
    town.kill(1)
    assert {grant.job: grant.solo for grant in town.park(1, lot=2, first=2)}[said]


def test_a_request_without_a_deadline_goes_on_while_something_comes_of_it() -> None:
    town = Town()
    patience_s = town.scheduler.settings.interactive_timeout_s
    town.park(1)
    town.submit(1, interactive=True)
    (grant,) = town.grants()
    beat = Beats(np.array([0], np.int32))
    answers: list[Record] = []

    def pass_time(times: int, spoke: bool) -> None:
        for _ in range(times):
            answers.extend(town.step(beat, after_s=patience_s / 10).answer)
            if spoke:
                answers.extend(town.report(grant.token, sequence=0, spoke=True).answer)

    pass_time(25, spoke=True)
    assert not answers
    pass_time(10, spoke=False)
    assert [record.outcome for record in answers if isinstance(record, EndRecord)] == [Outcome.EXPIRED]
