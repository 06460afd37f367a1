"""Refusals as clients of OpenAI read them."""

import json
from http import HTTPStatus

import pytest

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.errors import described, error, headers


@pytest.mark.parametrize("refusal", [one for one in Refusal if one is not Refusal.OVER_QUOTA])
def test_every_refusal_has_a_shape_and_those_of_the_moment_say_when_to_come_back(refusal: Refusal) -> None:
    told = json.loads(error(Refused(refusal, "no")))["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    assert told["type"].endswith("_error")
    assert (told["type"] == "server_error") == (refusal.http_status >= 500)
    assert (b"retry-after" in dict(headers(Refused(refusal, "no")))) == (refusal.http_status in {429, 503})


def test_a_quota_is_told_as_openai_does_and_not_tried_again() -> None:
    refused = Refused(Refusal.OVER_QUOTA, "no")
    assert json.loads(error(refused))["error"]["type"] == "insufficient_quota"
    assert headers(refused) == [(b"x-should-retry", b"false")]


def test_the_page_says_which_errors_tell_when_to_come_back() -> None:
    told = {status: described(status)[1] for status in {HTTPStatus(refusal.http_status) for refusal in Refusal}}
    names = ("retry-after", "retry-after-ms")
    assert {status: waits for status, waits in told.items() if waits} == {
        HTTPStatus.TOO_MANY_REQUESTS: dict.fromkeys(names, False),  # of a quota it is of no use
        HTTPStatus.SERVICE_UNAVAILABLE: dict.fromkeys(names, True),
    }


def test_a_wait_is_told_in_whole_seconds_and_in_milliseconds() -> None:
    refused = Refused(Refusal.OVERLOADED, "no", retry_after_s=0.25)
    assert headers(refused) == [(b"retry-after", b"1"), (b"retry-after-ms", b"250")]
