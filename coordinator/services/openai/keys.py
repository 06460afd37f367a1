"""Idempotency-Key: calls that a client may repeat."""

from collections.abc import Mapping

from coordinator.services.openai.call import Call
from coordinator.services.openai.schema import Schema, check

_NAME = "idempotency-key"
KEYED: Mapping[str, Schema] = {_NAME: {"type": "string", "maxLength": 256}}
"""Headers of a call that may have one."""


def idempotency_key(call: Call) -> str:
    """The key of a call; empty when it has none."""
    key = call.header(_NAME)
    check(key, KEYED[_NAME], _NAME)
    return key
