"""Idempotency-Key: calls that a client may repeat."""

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import Call

_MOST_CHARACTERS = 256


def idempotency_key(call: Call) -> str:
    """The key of a call; empty when it has none."""
    key = call.header("idempotency-key")
    if len(key) > _MOST_CHARACTERS:
        raise Refused(
            Refusal.BAD_INPUT,
            f"the idempotency key has {len(key)} characters; the limit is {_MOST_CHARACTERS}: shorten it",
        )
    return key
