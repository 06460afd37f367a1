"""A lot keeps its promises: events in, orders and messages out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import wire
from node.events import (
    Announced,
    Effects,
    Event,
    InputsFetched,
    PluggedIn,
    RefusalsSaid,
    ResidencyChanged,
    ResultPut,
    Said,
    ShutDown,
    Stopped,
    TransferRefused,
    Unplugged,
    Welcomed,
    WindowsEstimated,
    Worked,
)
from node.lot import MESSAGE_BYTES, PENDING_BYTES, REST_S, STREAM_PAYLOAD_BYTES, Lot
from node.messages import (
    Departure,
    DepartureCause,
    DrainAsked,
    EndCause,
    Granted,
    ItemError,
    Message,
    ModelOffer,
    Offers,
    Partial,
    Range,
    Report,
    RevocationCause,
    Revoked,
    Token,
    Vehicle,
    Ways,
    bitmap,
)
from node.vehicles import Looked
from protos import link_pb2

ECHO = ModelOffer("noop", "d1", "echo", 1000.0, 0.0, 64, 1 << 20)
A, B = Token(1, 1), Token(1, 2)


def lot_of(count: int) -> Lot:
    return Lot("lot", 7, [Vehicle(f"car-{n:04d}", "hw4", 160.0) for n in range(count)], [ECHO])


def plugged(count: int, window_s: float = 3600.0) -> Lot:
    """A lot whose cars all serve, with everything told."""
    lot = lot_of(count)
    nodes = np.arange(count)
    lot.handle([PluggedIn(nodes, np.full(count, window_s)), Welcomed(())], 0.0)
    list(lot.take(0.0))
    return lot


def grant(
    token: Token = A, node: int = 0, items: int = 4, *, deferred: tuple[int, ...] = (), solo: bool = False
) -> Granted:
    inputs = [b"" if item in deferred else b"x%d" % item for item in range(items)]
    return Granted(token, node, "noop", "job-1", [Range(10, items)], inputs, deferred, 30.0, False, solo)


def looked(*withheld: bool, speed: float = 1.0, wake_j: float = 0.0, price: float = 0.0) -> Looked:
    count = len(withheld)
    return Looked(np.array(withheld), np.full(count, speed), np.full(count, wake_j), price, 0.0)


def worked(token: Token, items: list[int], last: bool = False, busy_s: float = 0.1) -> Worked:
    return Worked(token, items, [b"r%d" % item for item in items], (), busy_s, last)


def taken(lot: Lot, now_s: float = 1.0) -> list[Message]:
    return list(lot.take(now_s))


def reports(lot: Lot) -> list[Report]:
    return [report for message in taken(lot) for report in message.reports]


def test_a_grant_is_started_and_its_results_are_reported_in_bit_order() -> None:
    lot = plugged(1)
    effects = lot.handle([grant()], 1.0)
    assert effects.start == [grant()]
    lot.handle([worked(A, [2, 0])], 1.0)
    lot.handle([worked(A, [1])], 1.0)
    (report,) = reports(lot)
    assert report.done == 0b111
    assert report.results == [b"r0", b"r1", b"r2"]
    assert report.ended is None
    assert report.useful_s == pytest.approx(0.2)
    assert report.energy_modelled_j == pytest.approx(0.2 * 160.0)
    lot.handle([worked(A, [3], last=True)], 1.0)
    (report,) = reports(lot)
    assert (report.done, report.results, report.ended) == (0b1000, [b"r3"], EndCause.FINISHED)


def test_an_offer_says_what_a_forecast_of_the_stay_goes_by() -> None:
    monday_s, minute_s = 30 * 3600.0, 60.0
    ways = Ways("home", monday_s, 60.0, 0.3, 400.0)
    lot = Lot("lot", 7, [Vehicle(f"car-{n}", "hw4", 160.0, "yard") for n in range(2)], [ECHO], ways)
    lot.handle([PluggedIn(np.arange(2), np.full(2, 600.0), age_s=np.array([0.0, 7200.0])), Welcomed(())], minute_s)
    lot.handle([PluggedIn(np.array([1]), np.array([300.0]), declared=True)], 2 * minute_s)
    (message,) = taken(lot, 3 * minute_s)
    assert message.offers is not None
    row = wire.encode(message).offers[1]
    assert (row.cohort, row.hour_of_week, row.pace, row.declared) == ("home", 33.0, 60.0, True)
    assert (row.window_s, row.plugged_in_s) == (240.0, 7200.0 + 120.0 * 60.0)
    assert (row.price_per_kwh, row.carbon_g_per_kwh) == (0.3, 400.0)
    assert message.offers.plugged_in_s[0] == 120.0 * 60.0
    assert message.offers.declared.tolist() == [False, True]
    assert [vehicle.site for vehicle in lot.hello().vehicles] == ["yard", "yard"]


def test_vehicles_of_a_mix_offer_the_habits_of_their_own_days() -> None:
    vehicles = [Vehicle(f"car-{n}", "hw4", 160.0, "") for n in range(2)]
    lot = Lot("lot", 7, vehicles, [ECHO], Ways("home", cohorts=("home", "rack")))
    lot.handle([PluggedIn(np.arange(2), np.full(2, 600.0)), Welcomed(())], 0.0)
    (message,) = taken(lot)
    assert [offer.cohort for offer in wire.encode(message).offers] == ["home", "rack"]


def test_a_declared_end_is_told_even_where_the_window_stays_the_same() -> None:
    lot = plugged(1, 600.0)
    lot.handle([PluggedIn(np.array([0]), np.array([599.0]), declared=True)], 1.0)
    (message,) = taken(lot)
    assert message.offers is not None
    assert message.offers.declared.tolist() == [True]
    lot.handle([Unplugged(np.array([0]))], 2.0)
    lot.handle([PluggedIn(np.array([0]), np.array([600.0]))], 3.0)
    offers = [message.offers for message in taken(lot, 4.0) if message.offers is not None]
    assert offers[-1].plugged_in_s.tolist() == [1.0]


def test_a_lease_that_yields_reports_what_ran_and_then_ends() -> None:
    lot = plugged(1)
    lot.handle([grant(), Announced(A, [0, 1])], 1.0)
    effects = lot.handle([Revoked(A, RevocationCause.YIELD)], 1.0)
    assert (effects.wind_down, effects.stop) == ([A], [])
    assert lot.handle([Revoked(A, RevocationCause.YIELD)], 1.0) == Effects()
    lot.handle([worked(A, [0, 1]), Stopped({A: 0.0})], 1.1)
    (report,) = reports(lot)
    assert (report.done, report.ended, report.lost_s) == (0b11, EndCause.YIELDED, 0.0)
    assert lot.live(np.array([0])) == 0


def test_a_lease_that_finishes_while_it_yields_is_finished() -> None:
    lot = plugged(1)
    lot.handle([grant(), Revoked(A, RevocationCause.YIELD), worked(A, [0, 1, 2, 3], last=True)], 1.0)
    lot.handle([Stopped({A: 0.0})], 1.0)
    assert [report.ended for report in reports(lot)] == [EndCause.FINISHED]


def test_an_owner_does_not_wait_for_a_lease_that_yields() -> None:
    lot = plugged(1)
    lot.handle([grant(), Revoked(A, RevocationCause.YIELD)], 1.0)
    assert lot.handle([Unplugged(np.array([0]))], 1.0).stop == [A]
    lot.handle([Stopped({A: 0.05}), Stopped({A: 0.0})], 1.0)
    (message,) = [message for message in taken(lot) if message.lasting]
    assert [(report.ended, report.lost_s) for report in message.reports] == [(EndCause.UNPLUGGED, 0.05)]
    assert [departure.cause for departure in message.departures] == [DepartureCause.UNPLUGGED]


def test_a_lease_that_yields_before_it_began_ends_at_once() -> None:
    lot = plugged(1)
    granted = grant(deferred=(1,))
    lot.handle([granted], 1.0)
    effects = lot.handle([Revoked(A, RevocationCause.YIELD)], 1.0)
    assert (effects.wind_down, effects.stop) == ([], [A])
    assert not lot.handle([InputsFetched(granted), Stopped({A: 0.0})], 1.0).start
    assert [report.ended for report in reports(lot)] == [EndCause.YIELDED]


def test_a_lease_that_yields_waits_for_large_results_on_their_way() -> None:
    lot = plugged(1)
    large = bytes(STREAM_PAYLOAD_BYTES + 1)
    lot.handle([grant(), Worked(A, [2], [large], (), 0.1, False)], 1.0)
    lot.handle([Revoked(A, RevocationCause.YIELD), Stopped({A: 0.0})], 1.0)
    assert all(report.ended is None for report in reports(lot))
    lot.handle([ResultPut(A, 2)], 1.0)
    assert [(report.done, report.ended) for report in reports(lot)] == [(0b100, EndCause.YIELDED)]


def test_the_same_grant_again_changes_nothing() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    assert lot.handle([grant()], 1.0) == Effects()


def test_a_finished_lease_is_held_until_its_end_is_acknowledged() -> None:
    lot = plugged(1)
    lot.handle([grant(), worked(A, [0, 1, 2, 3], last=True)], 1.0)
    reports(lot)
    (held,) = lot.hello().held
    assert (held.token, held.done, held.job_id, held.ranges) == (A, 0b1111, "job-1", [Range(10, 4)])
    lot.forget(A)
    assert not lot.hello().held


def test_unplugging_stops_the_work_then_reports_it_then_departs() -> None:
    lot = plugged(2)
    lot.handle([grant(A, 0), grant(B, 1), worked(A, [0])], 1.0)
    effects = lot.handle([Unplugged(np.array([0]))], 2.0)
    assert effects.stop == [A]
    assert not [m for m in taken(lot) if m.departures], "the car has not departed before its work is stopped"
    lot.handle([Stopped({A: 0.05})], 2.0)
    (message,) = [m for m in taken(lot) if m.lasting]
    (report,) = message.reports
    assert (report.ended, report.lost_s) == (EndCause.UNPLUGGED, 0.05)
    assert message.departures == [Departure(0, DepartureCause.UNPLUGGED)]
    assert lot.live(np.array([0, 1])) == 1


def test_an_idle_car_departs_at_once() -> None:
    lot = plugged(1)
    lot.handle([Unplugged(np.array([0]))], 2.0)
    (message,) = taken(lot)
    assert message.departures == [Departure(0, DepartureCause.UNPLUGGED)]
    lot.handle([Unplugged(np.array([0]))], 2.0)
    assert not taken(lot), "it can leave but once"


def test_a_car_that_comes_back_is_offered_after_its_departure_was_told() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    lot.handle([Unplugged(np.array([0])), PluggedIn(np.array([0]), np.array([60.0]))], 2.0)
    assert not [m for m in taken(lot) if m.offers]
    lot.handle([Stopped({A: 0.0})], 2.0)
    first, second = taken(lot, 2.0)
    assert first.departures
    assert second.offers is None or not first.offers


def test_results_that_were_ready_before_the_stop_are_kept() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    lot.handle([Unplugged(np.array([0])), worked(A, [0, 1]), Stopped({A: 0.0})], 2.0)
    (report,) = reports(lot)
    assert (report.done, report.ended) == (0b11, EndCause.UNPLUGGED)


def test_what_comes_after_the_end_changes_nothing() -> None:
    lot = plugged(1)
    lot.handle([grant(), Unplugged(np.array([0])), Stopped({A: 0.0})], 1.0)
    reports(lot)
    lot.handle([worked(A, [0]), Announced(A, [1]), ResultPut(A, 2), Stopped({A: 1.0})], 2.0)
    assert not reports(lot)


def test_a_grant_that_crosses_the_departure_is_given_back() -> None:
    lot = plugged(1)
    lot.handle([Unplugged(np.array([0]))], 1.0)
    assert not lot.handle([grant()], 1.0).start
    (report,) = reports(lot)
    assert report.ended is EndCause.UNPLUGGED


def test_a_grant_for_an_unknown_model_or_car_is_refused() -> None:
    lot = plugged(1)
    strange = Granted(B, 0, "other", "job-1", [Range(0, 1)], [b""], (), 30.0, False, False)
    assert lot.handle([strange, grant(A, node=5)], 1.0) == Effects()
    assert {report.ended for report in reports(lot)} == {EndCause.REFUSED}


def test_the_coordinator_is_told_at_once_when_other_models_are_resident() -> None:
    chat = ModelOffer("chat", "d2", "generate", 10.0, 3.0, 8, 1 << 16)
    lot = Lot("lot", 7, [Vehicle("car-0000", "hw4", 160.0)], [ECHO, chat])
    lot.handle([PluggedIn(np.arange(1), np.full(1, 3600.0)), Welcomed(())], 0.0)
    (told,) = taken(lot, 0.0)
    assert [(model.model, model.load_s) for model in told.models] == [("noop", 0.0), ("chat", 3.0)]
    lot.handle([ResidencyChanged({"noop": 0.5, "chat": 0.0})], 0.1)
    (told,) = taken(lot, 0.1)
    assert [(model.model, model.load_s) for model in told.models] == [("noop", 0.5), ("chat", 0.0)]


def test_a_model_that_cannot_be_loaded_any_more_is_offered_no_more_and_its_car_rests_when_it_is_lent() -> None:
    chat = ModelOffer("chat", "d2", "generate", 10.0, 3.0, 8, 1 << 16)
    lot = Lot("lot", 7, [Vehicle("car-0000", "hw4", 160.0)], [ECHO, chat])
    lot.handle([PluggedIn(np.arange(1), np.full(1, 3600.0)), Welcomed(())], 0.0)
    lot.handle([ResidencyChanged({"noop": 0.0})], 0.1)
    (told,) = taken(lot, 0.1)
    assert [model.model for model in told.models] == ["noop"]
    crossing = Granted(A, 0, "chat", "job-1", [Range(0, 1)], [b"x"], (), 30.0, True, False)
    assert lot.handle([crossing], 0.2) == Effects()
    refused, rests = taken(lot, 0.2)
    assert [report.ended for report in refused.reports] == [EndCause.REFUSED]
    assert rests.offers is not None
    assert rests.offers.share.tolist() == [0.0]


def test_a_drained_car_finishes_what_it_holds_and_departs() -> None:
    lot = plugged(2)
    lot.handle([grant()], 1.0)
    lot.handle([DrainAsked((0, 1))], 1.0)
    (message,) = [m for m in taken(lot) if m.lasting]
    assert message.departures == [Departure(1, DepartureCause.DRAINED)]
    lot.handle([worked(A, [0, 1, 2, 3], last=True)], 1.0)
    (message,) = [m for m in taken(lot) if m.lasting]
    assert message.reports[0].ended is EndCause.FINISHED
    assert message.departures == [Departure(0, DepartureCause.DRAINED)]


def test_a_car_that_is_plugged_in_while_it_drains_departs_first_and_serves_again() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    lot.handle([DrainAsked((0,))], 1.0)
    taken(lot)
    lot.handle([PluggedIn(np.array([0]), np.array([600.0]))], 2.0)
    assert not [message for message in taken(lot, 2.0) if message.offers is not None and message.offers.share.any()]
    lot.handle([worked(A, [0, 1, 2, 3], last=True)], 3.0)
    departed, offered = taken(lot, 3.0)
    assert departed.departures == [Departure(0, DepartureCause.DRAINED)]
    assert offered.offers is not None
    assert offered.offers.share.tolist() == [1.0]


def test_a_car_that_is_away_departs_again_when_it_is_drained() -> None:
    """The coordinator may take it to be here, by a lease in its hello, and ends the drain with the departure."""
    lot = plugged(1)
    lot.handle([Unplugged(np.array([0]))], 1.0)
    taken(lot)
    lot.handle([DrainAsked((0,)), PluggedIn(np.array([0]), np.array([600.0]))], 2.0)
    departed, offered = taken(lot, 2.0)
    assert departed.lasting
    assert departed.departures == [Departure(0, DepartureCause.DRAINED)]
    assert offered.offers is not None
    assert offered.offers.share.tolist() == [1.0]


def test_a_revoked_lease_is_stopped_and_reported() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    assert lot.handle([Revoked(A, RevocationCause.CANCELLED)], 1.0).stop == [A]
    lot.handle([Stopped({A: 0.01})], 1.0)
    (report,) = reports(lot)
    assert report.ended is EndCause.REVOKED


def test_a_lease_unknown_to_the_coordinator_is_dropped_in_silence() -> None:
    lot = plugged(1)
    lot.handle([grant(), worked(A, [0])], 1.0)
    assert lot.handle([Revoked(A, RevocationCause.UNKNOWN)], 1.0).stop == [A]
    lot.handle([Stopped({A: 0.01}), worked(A, [1])], 1.0)
    assert not reports(lot)
    assert not lot.hello().held
    assert not lot.unended


def test_leases_dropped_by_a_welcome_are_stopped_and_the_rest_goes_on() -> None:
    lot = plugged(2)
    lot.handle([grant(A, 0), grant(B, 1), worked(A, [0]), worked(B, [0])], 1.0)
    assert lot.handle([Welcomed((A,))], 2.0).stop == [A]
    assert [report.token for report in reports(lot)] == [B]
    assert [held.token for held in lot.hello().held] == [B]


def test_every_welcome_is_followed_by_the_table_and_all_offers() -> None:
    lot = plugged(3)
    assert not taken(lot)
    lot.handle([Welcomed(())], 5.0)
    (message,) = taken(lot, 5.0)
    assert message.models == (ECHO,)
    assert message.offers is not None
    assert message.offers.node.tolist() == [0, 1, 2]
    assert message.offers.share.tolist() == pytest.approx([1 / 3] * 3)


def test_shares_follow_who_is_plugged_in() -> None:
    lot = plugged(2)
    lot.handle([Unplugged(np.array([0]))], 1.0)
    offers = [m.offers for m in taken(lot) if m.offers is not None]
    assert [(o.node.tolist(), o.share.tolist()) for o in offers] == [([1], [1.0])]


def test_a_window_is_told_again_only_when_it_moved_by_a_tenth() -> None:
    lot = plugged(1, window_s=1000.0)
    node = np.array([0])
    lot.handle([WindowsEstimated(node, np.array([950.0]))], 100.0)  # 900 were left
    assert not taken(lot, 100.0)
    lot.handle([WindowsEstimated(node, np.array([1200.0]))], 100.0)
    (message,) = taken(lot, 100.0)
    assert message.offers is not None
    assert message.offers.window_s.tolist() == [1200.0]


def test_announced_items_are_reported_as_running_until_they_are_done() -> None:
    lot = plugged(1)
    lot.handle([grant(), Announced(A, [0, 1, 2])], 1.0)
    (report,) = reports(lot)
    assert report.running == 0b111
    lot.handle([worked(A, [0, 1])], 1.0)
    (report,) = reports(lot)
    assert (report.done, report.running) == (0b11, 0b100)


def test_an_item_that_fails_alone_is_an_error_and_its_neighbours_are_results() -> None:
    lot = plugged(1)
    error = ItemError(2, "bad_input", "no picture")
    lot.handle([grant(), Worked(A, [0, 1, 3], [b"a", b"b", b"c"], [error], 0.1, True)], 1.0)
    (report,) = reports(lot)
    assert (report.done, report.errors, report.ended) == (0b1011, (error,), EndCause.FINISHED)


def test_what_loading_a_model_took_is_told_once_and_counts_as_energy() -> None:
    lot = plugged(1)
    lot.handle([grant(), Worked(A, [0], [b"a"], (), 0.5, False, loading_s=2.0)], 1.0)
    (report,) = reports(lot)
    assert (report.useful_s, report.loading_s) == (0.5, 2.0)
    assert report.energy_modelled_j == pytest.approx(2.5 * 160.0)
    (told,) = wire.encode(Message(reports=[report])).reports
    assert told.loading_s == 2.0
    lot.handle([worked(A, [1])], 1.0)
    assert reports(lot)[0].loading_s == 0.0


def test_an_executor_that_gives_items_up_ends_the_lease() -> None:
    lot = plugged(1)
    lot.handle([grant()], 1.0)
    assert lot.handle([worked(A, [0], last=True)], 1.0).stop == [A]
    lot.handle([Stopped({A: 0.0})], 1.0)
    assert reports(lot)[-1].ended is EndCause.REFUSED


def test_deferred_inputs_are_fetched_before_the_start() -> None:
    lot = plugged(1)
    asked = grant(deferred=(1,))
    effects = lot.handle([asked], 1.0)
    assert (effects.fetch, effects.start) == ([asked], [])
    assert lot.handle([InputsFetched(asked)], 1.0).start == [asked]


def test_inputs_that_cannot_be_fetched_give_the_lease_back() -> None:
    lot = plugged(1)
    lot.handle([grant(deferred=(1,))], 1.0)
    assert lot.handle([TransferRefused(A)], 1.0).stop == [A]
    lot.handle([Stopped({})], 1.0)
    assert lot.handle([Stopped({A: 0.0})], 1.0) == Effects()
    assert reports(lot)[-1].ended is EndCause.REFUSED


def test_a_large_result_is_put_before_it_is_reported_as_done() -> None:
    lot = plugged(1)
    large = b"x" * (STREAM_PAYLOAD_BYTES + 1)
    effects = lot.handle([grant(items=2), Worked(A, [0, 1], [b"small", large], (), 0.1, True)], 1.0)
    (put,) = effects.put
    assert (put.token, put.item, put.payload) == (A, 1, large)
    (report,) = reports(lot)
    assert (report.done, report.results, report.ended) == (0b01, [b"small"], None)
    lot.handle([ResultPut(A, 1)], 1.0)
    (report,) = reports(lot)
    assert (report.done, report.results, report.ended) == (0b10, [b""], EndCause.FINISHED)


def test_many_results_are_cut_into_messages_of_bounded_size() -> None:
    lot = plugged(1)
    payload = b"x" * 60_000
    lot.handle([grant(items=100), Worked(A, list(range(100)), [payload] * 100, (), 1.0, True)], 1.0)
    messages = taken(lot)
    assert len(messages) >= 6
    assert all(sum(len(r) for report in m.reports for r in report.results) <= MESSAGE_BYTES for m in messages)
    cut = [report for message in messages for report in message.reports]
    assert sum(len(report.results) for report in cut) == 100
    assert [report.ended for report in cut] == [None] * (len(cut) - 1) + [EndCause.FINISHED]
    done = 0
    for report in cut:
        assert done & report.done == 0
        done |= report.done
    assert done == (1 << 100) - 1


def test_results_beyond_what_an_outage_may_hold_give_their_leases_up() -> None:
    lot = plugged(1)
    payload = b"x" * 60_000
    items = PENDING_BYTES // len(payload) + 2
    lot.handle([grant(items=items + 1)], 1.0)
    effects = lot.handle([Worked(A, list(range(items)), [payload] * items, (), 1.0, False)], 1.0)
    assert effects.stop == [A]
    assert lot.hello().held[0].done == 0
    lot.handle([Stopped({A: 0.0})], 1.0)
    (report,) = reports(lot)
    assert (report.done, report.results, report.ended) == (0, [], EndCause.REFUSED)


def test_a_shutdown_stops_reports_departs_and_says_goodbye() -> None:
    lot = plugged(2)
    lot.handle([grant()], 1.0)
    assert lot.handle([ShutDown()], 2.0).stop == [A]
    assert not any(message.goodbye for message in taken(lot))
    lot.handle([Stopped({A: 0.0})], 2.0)
    *_, work, last = taken(lot)
    assert work.reports[-1].ended is EndCause.UNPLUGGED
    assert last.goodbye
    assert lot.said_goodbye
    assert not lot.pending


def test_a_heartbeat_names_who_is_here() -> None:
    lot = plugged(10)
    lot.handle([Unplugged(np.array([0, 8]))], 1.0)
    taken(lot)
    lot.beat()
    (message,) = taken(lot)
    assert message.present == bytes([0b11111110, 0b10])


def test_a_speed_that_moved_is_told_but_not_at_once_again() -> None:
    lot = plugged(1)
    many = Granted(A, 0, "noop", "job-1", [Range(0, 4096)], [b""] * 4096, (), 30.0, False, False)
    lot.handle([many], 10.0)
    for start in range(0, 400, 100):  # 500 items/s instead of 1,000
        lot.handle([worked(A, list(range(start, start + 100)), busy_s=0.2)], 10.0)
    (message,) = [m for m in taken(lot, 10.0) if m.models]
    assert message.models[0].items_per_s == pytest.approx(500.0)
    for start in range(400, 2400, 100):
        lot.handle([worked(A, list(range(start, start + 100)), busy_s=0.8)], 10.5)
    assert not [m for m in taken(lot, 11.0) if m.models]
    assert [m for m in taken(lot, 12.5) if m.models]


def test_a_paced_lot_offers_no_more_than_its_cars_profiles_together() -> None:
    cars = [Vehicle(f"car-{n}", "hw4", 160.0) for n in range(4)]
    lot = Lot("lot", 7, cars, [ECHO], Ways(pace=60.0), {"noop": 200.0})
    lot.handle([PluggedIn(np.arange(2), np.full(2, 3600.0)), Welcomed(())], 0.0)

    def told(now_s: float) -> list[float]:
        return [message.models[0].items_per_s for message in lot.take(now_s) if message.models]

    assert told(0.0) == [400.0]
    lot.handle([PluggedIn(np.array([2]), np.array([3600.0]))], 0.5)
    assert told(0.5) == [600.0], "at once, with the shares"
    lot.handle([looked(True, False, False, False)], 0.75)
    assert told(0.75) == [400.0], "an owner withholds one"
    lot.handle([Unplugged(np.arange(2))], 1.0)
    assert told(1.0) == [200.0]
    lot.handle([grant(node=2, items=400)], 5.0)
    for start in range(0, 400, 100):  # long items: a car takes 1 s for a hundred, this machine 0.1 s
        done = worked(A, list(range(start, start + 100)))
        lot.handle([replace(done, paced_s=1.0)], 5.0)
    messages = taken(lot, 5.0)
    (report,) = [report for message in messages for report in message.reports]
    assert report.energy_modelled_j == pytest.approx(4 * 1.0 * 60.0 * 160.0), "in the profile's own time"
    assert report.useful_s == pytest.approx(0.4), "measured"
    (models,) = [message.models for message in messages if message.models]
    assert models[0].items_per_s == pytest.approx(100.0)


@given(st.lists(st.integers(0, 4095), unique=True, max_size=200))
def test_a_bitmap_has_a_bit_for_each_item(items: list[int]) -> None:
    bits = bitmap(items)
    assert [i for i in range(4096) if bits >> i & 1] == sorted(items)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_every_lease_ends_once_and_every_result_is_told_once(data: st.DataObject) -> None:
    """Random lives of three cars: at the end of each, nothing is told twice, nothing is left, all departed."""
    lot = plugged(3)
    stopping: set[Token] = set()
    told: dict[Token, int] = {}
    ended: dict[Token, EndCause] = {}
    offered = {0, 1, 2}

    def feed(event: Event) -> None:
        effects = lot.handle([event], 1.0)
        stopping.update(effects.stop, effects.wind_down)
        for message in lot.take(1.0):
            for report in message.reports:
                assert report.token not in ended
                assert told.get(report.token, 0) & report.done == 0
                assert report.done.bit_count() == len(report.results)
                told[report.token] = told.get(report.token, 0) | report.done
                if report.ended is not None:
                    ended[report.token] = report.ended
            for departure in message.departures:
                assert departure.node in offered
                offered.discard(departure.node)
            if isinstance(message.offers, Offers):
                offered.update(message.offers.node.tolist())

    tokens = [Token(1, number) for number in range(1, 6)]
    for _ in range(data.draw(st.integers(0, 25))):
        token = data.draw(st.sampled_from(tokens))
        node = data.draw(st.integers(0, 2))
        match data.draw(st.sampled_from(["grant", "work", "unplug", "plug", "revoke", "stopped", "drain"])):
            case "grant" if token not in told and token not in ended:
                feed(grant(token, node))
            case "work":
                feed(worked(token, data.draw(st.lists(st.integers(0, 3), unique=True))))
            case "unplug":
                feed(Unplugged(np.array([node])))
            case "plug":
                feed(PluggedIn(np.array([node]), np.array([60.0])))
            case "revoke":
                feed(Revoked(token, data.draw(st.sampled_from((RevocationCause.EXPIRED, RevocationCause.YIELD)))))
            case "drain":
                offered.add(node)  # who asks for it takes the car to be here
                feed(DrainAsked((node,)))
            case "stopped" if token in stopping:
                stopping.discard(token)
                feed(Stopped({token: 0.0}))
    feed(ShutDown())
    for token in tuple(stopping):
        feed(Stopped({token: 0.0}))
    assert lot.said_goodbye
    assert not offered
    assert not lot.unended
    assert {held.token for held in lot.hello().held} == set(ended)


def test_owners_terms_end_work_as_leaving_does_but_the_car_stays() -> None:
    lot = plugged(2)
    lot.handle([grant(A, 0), grant(B, 1)], 1.0)
    assert lot.handle([looked(True, False)], 2.0).stop == [A]
    lot.handle([Stopped({A: 0.5})], 2.0)
    messages = taken(lot, 2.0)
    (report,) = [report for message in messages for report in message.reports]
    assert (report.token, report.ended, report.lost_s) == (A, EndCause.WITHHELD, 0.5)
    assert not any(message.departures for message in messages)
    (offers,) = [message.offers for message in messages if message.offers is not None]
    assert dict(zip(offers.node.tolist(), offers.share.tolist(), strict=True)) == {0: 0.0, 1: 1.0}
    assert not lot.handle([grant(Token(1, 3), 0)], 3.0).start
    assert [report.ended for report in reports(lot)] == [EndCause.WITHHELD]
    lot.handle([looked(False, False)], 4.0)
    (message,) = taken(lot, 4.0)
    assert message.offers is not None
    assert message.offers.share.tolist() == [0.5, 0.5]


def test_heat_and_the_hour_change_what_is_offered() -> None:
    lot = plugged(1)
    lot.handle([looked(False, speed=0.5, wake_j=100.0, price=0.3)], 1.0)
    (message,) = taken(lot)
    (row,) = wire.encode(message).offers
    assert (row.share, row.wake_modelled_j, row.price_per_kwh) == (0.5, 100.0, 0.3)


def test_a_refused_tenant_is_not_served_and_the_car_rests() -> None:
    lot = plugged(2)
    lot.handle([replace(grant(A, 0), tenant="acme")], 1.0)
    said = RefusalsSaid((frozenset(), frozenset()), (frozenset({"acme"}), frozenset()))
    assert lot.handle([said], 1.0).stop == [A]
    lot.handle([Stopped({A: 0.0})], 1.0)
    assert not lot.handle([replace(grant(B, 0), tenant="acme")], 1.0).start
    assert lot.handle([replace(grant(Token(1, 3), 1), tenant="acme")], 1.0).start
    messages = taken(lot, 1.0)
    ends = {report.token: report.ended for message in messages for report in message.reports}
    assert ends[A] is ends[B] is EndCause.REFUSED
    offers = messages[-1].offers
    assert offers is not None
    assert offers.share.tolist() == [0.0, 1.0], "lest it be lent the same again at once"
    lot.handle([looked(False, False)], 1.0 + REST_S)
    (message,) = taken(lot, 1.0 + REST_S)
    assert message.offers is not None
    assert message.offers.share.tolist() == [0.5, 0.5]


def test_a_model_that_every_owner_refuses_is_not_offered() -> None:
    other = replace(ECHO, model="other")
    lot = Lot("lot", 7, [Vehicle("car-0000", "hw4", 160.0)], [ECHO, other])
    lot.handle([RefusalsSaid((frozenset({"noop"}),), (frozenset(),)), Welcomed(())], 0.0)
    assert [model.model for message in taken(lot, 0.0) for model in message.models] == ["other"]


def test_the_first_slice_pays_for_waking_and_each_for_its_time_awake() -> None:
    lot = Lot("lot", 7, [Vehicle("car-0000", "hw4", 160.0, awake_w=200.0)], [ECHO])
    lot.handle([PluggedIn(np.arange(1), np.full(1, 3600.0)), looked(False, wake_j=1000.0), Welcomed(())], 0.0)
    list(lot.take(0.0))
    lot.handle([grant(A, items=1), grant(B, items=1)], 1.0)
    lot.handle([worked(A, [0], last=True, busy_s=0.5)], 2.0)
    lot.handle([worked(B, [0], last=True, busy_s=0.5)], 3.0)
    found = {report.token: report for report in reports(lot)}
    assert found[A].energy_modelled_j == found[B].energy_modelled_j == pytest.approx(80.0)
    assert found[A].awake_modelled_j == pytest.approx(1000.0 + 200.0 * 0.5)
    assert found[B].awake_modelled_j == pytest.approx(200.0 * 0.5 + 200.0 * 1.0)


def test_a_paced_car_is_awake_by_its_own_clock() -> None:
    cars = [Vehicle("car-0000", "hw4", 160.0, awake_w=200.0)]
    lot = Lot("lot", 7, cars, [ECHO], Ways(pace=60.0), {"noop": 200.0})
    lot.handle([PluggedIn(np.arange(1), np.full(1, 3600.0)), Welcomed(())], 0.0)
    list(lot.take(0.0))
    lot.handle([grant(A, items=1)], 1.0)
    lot.handle([replace(worked(A, [0], last=True, busy_s=0.1), paced_s=2.0)], 3.0)
    (report,) = reports(lot)
    assert report.energy_modelled_j == pytest.approx(2.0 * 60.0 * 160.0)
    assert report.awake_modelled_j == pytest.approx(2.0 * 60.0 * 200.0)


def said(
    token: Token, first: int, text: str, start: int, reused: int = 0, prompt: int = 0, likely_bytes: int = 0
) -> Said:
    """Tokens that are their places, and what they made final; each likelihood is of one letter, so long."""
    likelihoods = tuple(letter.encode() * likely_bytes for letter in text) if likely_bytes else ()
    return Said(token, 0, first, tuple(range(first, first + len(text))), start, text, reused, prompt, likelihoods)


def partials(messages: list[Message]) -> list[Partial]:
    return [partial for message in messages for partial in message.partials]


def test_what_is_said_of_answers_travels_together_before_the_reports_and_with_the_heartbeat() -> None:
    lot = plugged(2)
    lot.handle([grant(A, 0, 1), grant(B, 1, 1)], 1.0)
    lot.handle([said(A, 5, "go", 8), said(B, 0, "we", 0), said(A, 7, "od ", 10), worked(A, [0], last=True)], 1.0)
    lot.beat()
    messages = taken(lot)
    assert partials(messages[:1]) == [
        Partial(A, 0, 5, [*range(5, 10)], 8, "good "),
        Partial(B, 0, 0, [0, 1], 0, "we"),
    ]
    assert not messages[0].lasting, "nobody acknowledges it"
    assert [report.ended for report in messages[1].reports] == [EndCause.FINISHED]
    assert messages[-1].present is not None
    lot.handle([said(A, 10, "x", 13), said(B, 2, "ll", 2)], 2.0)
    assert partials(taken(lot)) == [Partial(B, 0, 2, [2, 3], 2, "ll")], "a lease that ended says no more"
    assert not lot.pending


def test_what_the_executor_says_again_is_told_once() -> None:
    lot = plugged(1)
    lot.handle([grant(A, 0, 1), said(A, 3, "goo", 4)], 1.0)
    taken(lot)
    lot.handle([said(A, 3, "go", 4), said(A, 5, "od", 6)], 2.0)
    assert partials(taken(lot)) == [Partial(A, 0, 6, [6], 7, "d")]


def test_what_an_answer_took_until_then_is_told_with_what_was_said_of_it() -> None:
    lot = plugged(1)
    lot.handle([grant(A, 0, 1), replace(said(A, 0, "go", 0), busy_s=0.5)], 1.0)
    assert [partial.busy_s for partial in partials(taken(lot))] == [0.5]
    lot.handle([replace(said(A, 2, "o", 2), busy_s=0.75), replace(said(A, 3, "d", 3), busy_s=1.0)], 2.0)
    assert [partial.busy_s for partial in partials(taken(lot))] == [1.0]
    assert [partial.busy_s for partial in partials(list(lot.say_again(())))] == [1.0]


def test_a_new_stream_is_told_again_what_was_said_and_of_a_dropped_lease_nothing() -> None:
    lot = plugged(2)
    lot.handle([grant(A, 0, 1), grant(B, 1, 1), said(A, 3, "go", 4, reused=9), said(B, 0, "we", 0)], 1.0)
    taken(lot)
    lot.handle([said(A, 5, "od", 6, reused=9)], 2.0)
    assert partials(list(lot.say_again((B,)))) == [Partial(A, 0, 3, [3, 4, 5, 6], 4, "good", 9)]
    lot.handle([Welcomed((B,)), worked(A, [0], last=True)], 3.0)
    assert not partials(taken(lot))
    assert partials(list(lot.say_again(()))), "its end is not acknowledged"
    lot.forget(A)
    assert not list(lot.say_again(()))


def test_what_is_said_while_something_is_written_goes_before_the_end_of_the_answer() -> None:
    lot = plugged(1)
    lot.handle([grant(A, 0, 1), said(A, 0, "go", 0)], 1.0)
    messages = lot.take(1.0)
    assert partials([next(messages)])
    lot.handle([said(A, 2, "od", 2), worked(A, [0], last=True)], 1.0)
    said_last, end, *_ = messages
    assert (partials([said_last]), said_last.reports) == ([Partial(A, 0, 2, [2, 3], 2, "od")], ())
    assert [report.ended for report in end.reports] == [EndCause.FINISHED]


def test_much_that_is_to_be_said_goes_in_several_messages() -> None:
    lot = plugged(1)
    tokens = [Token(1, number) for number in range(40)]
    text = "x" * (MESSAGE_BYTES // 50)
    lot.handle([event for token in tokens for event in (grant(token, 0, 1), said(token, 0, text, 0))], 1.0)
    messages = taken(lot)
    assert sum(bool(message.partials) for message in messages) > 3
    assert [partial.token for partial in partials(messages)] == tokens
    assert max(wire.encode(message).ByteSize() for message in messages) < 3 * MESSAGE_BYTES


def test_likelihoods_are_told_with_their_tokens_once_and_again_on_a_new_stream() -> None:
    lot = plugged(1)
    lot.handle([grant(A, 0, 1), said(A, 3, "go", 4, 9, 20, 1)], 1.0)
    assert partials(taken(lot)) == [Partial(A, 0, 3, [3, 4], 4, "go", 9, 20, (b"g", b"o"))]
    lot.handle([said(A, 4, "ood", 5, 9, 20, 1), said(A, 7, "", 8, 9, 20)], 2.0)
    assert partials(taken(lot)) == [Partial(A, 0, 5, [5, 6], 6, "od", 9, 20, (b"o", b"d"))]
    (again,) = lot.say_again(())
    assert partials([again]) == [Partial(A, 0, 3, [3, 4, 5, 6], 4, "good", 9, 20, (b"g", b"o", b"o", b"d"))]
    row = wire.encode(again).partials[0]
    assert (row.prompt_tokens, list(row.likelihoods)) == (20, [b"g", b"o", b"o", b"d"])


def test_an_answer_with_long_likelihoods_is_told_again_in_several_messages_that_say_text_with_its_tokens() -> None:
    lot = plugged(1)
    lot.handle([grant(A, 0, 1)], 1.0)
    for place in range(0, 100, 2):
        lot.handle([said(A, place, "ab", place, likely_bytes=MESSAGE_BYTES // 20)], 1.0)
    lot.handle([Said(A, 0, 100, (), 100, " and what was held back", 0, 0)], 1.0)
    for messages in (taken(lot), list(lot.say_again(()))):
        rows = partials(messages)
        assert len(rows) > 3
        assert max(wire.encode(message).ByteSize() for message in messages) < 2 * MESSAGE_BYTES
        assert [token for row in rows for token in row.tokens] == [*range(100)]
        assert "".join(row.text for row in rows) == "ab" * 50 + " and what was held back"
        assert all(row.first == row.start for row in rows), "no text is told before or after its tokens"
        assert all(len(row.likelihoods) == len(row.tokens) for row in rows)


def test_a_grant_brings_what_other_cars_have_said() -> None:
    row = link_pb2.Grant(
        token=link_pb2.Token(epoch=1, attempt=1),
        inputs=[b"x"],
        streamed=True,
        begun=[link_pb2.Begun(item=0, tokens=[7, 8])],
    )
    (granted,) = wire.decode(link_pb2.ConnectResponse(grants=[row])).events
    assert isinstance(granted, Granted)
    assert granted.streamed
    assert granted.begun == {0: (7, 8)}
