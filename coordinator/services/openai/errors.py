"""Errors as clients of OpenAI read them: one table from the kind of refusal to their `type` and `code`."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

from coordinator.refusal import Refusal, Refused

Header = tuple[bytes, bytes]

_NAMES: dict[Refusal, tuple[str, str | None]] = {
    Refusal.BAD_INPUT: ("invalid_request_error", None),
    Refusal.NO_KEY: ("authentication_error", "invalid_api_key"),
    Refusal.NOT_ALLOWED: ("permission_error", "not_allowed"),
    Refusal.NOT_FOUND: ("not_found_error", "not_found"),
    Refusal.WRONG_METHOD: ("invalid_request_error", "method_not_allowed"),
    Refusal.TOO_SLOW: ("invalid_request_error", "request_timeout"),
    Refusal.ALREADY_EXISTS: ("conflict_error", "already_exists"),
    Refusal.TOO_UNSURE: ("conflict_error", "too_unsure"),
    Refusal.TOO_LARGE: ("invalid_request_error", "request_too_large"),
    Refusal.WRONG_FORM: ("invalid_request_error", "unsupported_media_type"),
    Refusal.OVERLOADED: ("rate_limit_error", "rate_limit_exceeded"),
    Refusal.OVER_QUOTA: ("insufficient_quota", "insufficient_quota"),
    Refusal.UNAVAILABLE: ("server_error", "unavailable"),
    Refusal.TOO_LATE: ("server_error", "deadline_exceeded"),
}
_OTHERS = ("server_error", "internal_error")

_COME_BACK = frozenset({Refusal.OVERLOADED, Refusal.UNAVAILABLE})
_WAIT_S = 1.0
"""After which a caller may come back who was told to, but not when (assumed)."""


class BadField(Refused):
    """A field of the body is not as it should be; the error names it."""

    def __init__(
        self, param: str, message: str, refusal: Refusal = Refusal.BAD_INPUT, code: str | None = None
    ) -> None:
        """`param` is the field, as in "messages[0].role"; `code` is for programs."""
        super().__init__(refusal, message)
        self.param = param or None  # the body itself
        self.code = code


def error(refused: Refused) -> bytes:
    """The body of an error answer, JSON."""
    kind, code = _NAMES.get(refused.refusal, _OTHERS)
    param = None
    if isinstance(refused, BadField):
        param, code = refused.param, refused.code
    shape = {"message": str(refused), "type": kind, "param": param, "code": code}
    return json.dumps({"error": shape}).encode()


def headers(refused: Refused) -> list[Header]:
    """What an error answer says beside its body: when to come back, or that it is of no use."""
    if refused.refusal is Refusal.OVER_QUOTA:
        return [(b"x-should-retry", b"false")]  # as OpenAI's clients read it
    wait_s = refused.retry_after_s
    if wait_s is None:
        if refused.refusal not in _COME_BACK:
            return []
        wait_s = _WAIT_S
    return [(b"retry-after", b"%d" % ceil(wait_s)), (b"retry-after-ms", b"%d" % round(1000 * wait_s))]


def described(status: HTTPStatus) -> tuple[Mapping[str, Any], Mapping[str, bool]]:
    """Error answers of this status: the schema of their body, and the headers that say when to come back, each with
    whether all of them have it."""
    refusals = [refusal for refusal in Refusal if refusal.http_status == status]
    text = {"type": ["string", "null"]}
    shape = {
        "message": {"type": "string"},
        "type": {"enum": sorted({_NAMES.get(refusal, _OTHERS)[0] for refusal in refusals})},
        "param": text,
        "code": text,
    }
    inner = {"type": "object", "properties": shape, "required": [*shape]}
    names = () if _COME_BACK.isdisjoint(refusals) else ("retry-after", "retry-after-ms")
    waits = dict.fromkeys(names, _COME_BACK.issuperset(refusals))
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}, waits
