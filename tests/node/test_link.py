"""The link loses nothing over a reconnection, says nothing twice under two numbers, and comes back soon."""

import random

from node.link import FIRST_RETRY_S, LONGEST_RETRY_S, Link
from node.messages import Departure, DepartureCause, EndCause, Message, Report, Token, Welcome

A, B = Token(1, 1), Token(1, 2)


def link() -> Link:
    return Link(random.Random(1))


def welcome(*dropped: Token) -> Welcome:
    return Welcome(1, 5.0, 15.0, dropped)


def report(token: Token, ended: EndCause | None = None) -> Message:
    return Message(reports=(Report(token, 4, ended=ended),))


def test_only_what_must_arrive_is_numbered() -> None:
    lasting = link()
    assert lasting.submit(Message(present=b"\1")).sequence == 0
    assert lasting.submit(report(A)).sequence == 1
    assert lasting.submit(Message(departures=(Departure(0, DepartureCause.UNPLUGGED),))).sequence == 2


def test_after_a_reconnection_the_unacknowledged_is_sent_again_under_its_numbers() -> None:
    lasting = link()
    lasting.welcomed(welcome())
    sent = [lasting.submit(report(A)), lasting.submit(report(B)), lasting.submit(report(A))]
    lasting.acknowledged(1, lambda token: None)
    lasting.lost()
    assert not lasting.open
    assert list(lasting.welcomed(welcome())) == sent[1:]
    assert lasting.submit(report(A)).sequence == 4


def test_an_acknowledgement_names_the_leases_whose_end_it_tells() -> None:
    lasting = link()
    lasting.submit(report(A))
    lasting.submit(report(B, EndCause.FINISHED))
    lasting.submit(report(A, EndCause.UNPLUGGED))
    ended: list[Token] = []
    lasting.acknowledged(2, ended.append)
    assert ended == [B]
    lasting.acknowledged(1, ended.append)
    assert ended == [B], "an older acknowledgement says nothing new"


def test_reports_of_dropped_leases_are_forgotten_and_departures_are_not() -> None:
    lasting = link()
    lasting.submit(report(A))
    departure = Departure(0, DepartureCause.UNPLUGGED)
    lasting.submit(Message(reports=(Report(A, 4), Report(B, 4)), departures=(departure,)))
    (message,) = lasting.welcomed(welcome(A))
    assert message.sequence == 2
    assert [row.token for row in message.reports] == [B]
    assert list(message.departures) == [departure]


def test_the_first_retry_comes_within_50_ms_and_none_waits_over_a_second() -> None:
    lasting = link()
    waits = [lasting.lost() for _ in range(200)]
    assert waits[0] <= FIRST_RETRY_S
    assert all(wait <= LONGEST_RETRY_S for wait in waits)
    assert 0.4 * LONGEST_RETRY_S < sum(waits[8:]) / len(waits[8:]) < 0.6 * LONGEST_RETRY_S, "full jitter"
    lasting.welcomed(welcome())
    assert lasting.lost() <= FIRST_RETRY_S


def test_retries_are_spread_but_the_same_for_the_same_seed() -> None:
    first, second, other = Link(random.Random(1)), Link(random.Random(1)), Link(random.Random(2))
    waits = [[each.lost() for _ in range(5)] for each in (first, second, other)]
    assert waits[0] == waits[1] != waits[2]


def test_the_wait_that_the_coordinator_asked_for_is_kept() -> None:
    assert 3.0 <= link().lost(retry_after_s=3.0) <= 3.3
