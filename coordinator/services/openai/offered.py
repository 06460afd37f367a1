"""The model that a body names, if it can do what is asked of it."""

from typing import Any

from coordinator.refusal import Refusal, Refused
from coordinator.runtime import Runtime
from coordinator.services.openai.errors import BadField
from coordinator.wire import OfferedModel

ASKING_REFUSES = (Refusal.NOT_FOUND, Refusal.ALREADY_EXISTS, Refusal.OVERLOADED)
"""What asks a model, under an idempotency key or without: no model, a key of another call, too much to do."""


def offered(runtime: Runtime, body: dict[str, Any], kind: str, path: str) -> OfferedModel:
    """Refused when nobody offers it, or when it is of another kind than `path` serves."""
    name = body["model"]
    try:
        model = runtime.catalogue.offered(name)
    except Refused as refused:
        raise BadField("model", str(refused), refused.refusal, "model_not_found") from None
    if model.kind != kind:
        runtime.metrics.count_rejection("wrong_kind")
        message = f"model {name!r} is of kind {model.kind!r}, and {path} serves those of kind {kind!r}"
        raise BadField("model", message, Refusal.BAD_INPUT, "model_not_supported")
    return model
