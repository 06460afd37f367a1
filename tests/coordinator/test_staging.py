"""Results that are too large for the stream: put ahead of their report, perhaps to a coordinator that has ended."""

import numpy as np
import pytest

from coordinator.core.events import LotId, LotJoined, Progressed, Token
from coordinator.refusal import Refusal, Refused
from coordinator.staging import Staging
from coordinator.wire import Terms, facts, payloads
from protos import link_pb2

NEW, OLD = Token(2, 7), Token(1, 7)


def request(token: Token, done: int, *results: bytes) -> link_pb2.ConnectRequest:
    made = link_pb2.ConnectRequest()
    named = link_pb2.Token(epoch=token.epoch, attempt=token.attempt)
    made.reports.add(token=named, done=done.to_bytes(2, "little"), results=results)
    return made


def test_a_result_that_was_put_takes_its_place_in_the_report() -> None:
    staging = Staging({NEW})
    staging.put(NEW, 9, b"large")
    assert payloads(request(NEW, 0b10_0000_0101, b"a", b"b", b""), staging.take) == [[b"a", b"b", b"large"]]


@pytest.mark.parametrize("results", [(b"",), (b"a", b"", b"c")])
def test_a_result_that_was_put_before_a_restart_is_not_taken_for_an_empty_one(results: tuple[bytes, ...]) -> None:
    staging = Staging({OLD})
    made = request(OLD, (1 << len(results)) - 1, *results)
    assert payloads(made, staging.take) == [[result for result in results if result]]
    lot = LotJoined(LotId(0), 1, np.zeros(1, np.int32), ("hw4",), np.zeros(1))
    (progressed,) = facts(made, lot, 1, 0.0, Terms(1, 5.0, 12.0))
    assert isinstance(progressed, Progressed)
    assert progressed.reports[0].done == sum(1 << at for at, result in enumerate(results) if result)


def test_an_empty_result_that_was_put_is_empty() -> None:
    staging = Staging({NEW})
    staging.put(NEW, 0, b"")
    assert payloads(request(NEW, 1, b""), staging.take) == [[b""]]


def test_results_of_a_lease_that_is_not_live_are_refused_and_forgotten() -> None:
    leases = {NEW}
    staging = Staging(leases)
    staging.put(NEW, 0, b"large")
    leases.clear()
    with pytest.raises(Refused, match="not live") as refused:
        staging.put(NEW, 1, b"large")
    assert refused.value.refusal is Refusal.NOT_FOUND
    leases.add(OLD)
    staging.put(OLD, 0, b"other")
    assert staging.take(NEW, 0) is None
