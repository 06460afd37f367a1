"""/v1/models: the models that the fleet offers."""

from typing import Any

from coordinator.runtime import Runtime
from coordinator.services.openai.call import Answer, Call, answer
from coordinator.services.openai.operation import Operation, Schema
from coordinator.wire import OfferedModel

MODEL: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["model"]},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "kind": {"enum": ["embed", "generate", "classify", "echo"]},
        "cars": {"type": "integer"},
        "context_tokens": {"type": "integer"},
    },
    "required": ["id", "object", "created", "owned_by"],
}
_MODELS: Schema = {
    "type": "object",
    "properties": {"object": {"enum": ["list"]}, "data": {"type": "array", "items": MODEL}},
    "required": ["object", "data"],
}


class Models:
    """Tells what may be asked of the fleet."""

    def __init__(self, runtime: Runtime, began_s: int) -> None:
        """`began_s`: when this coordinator started, Unix seconds; a model has no date of its own."""
        self._runtime = runtime
        self._began_s = began_s

    def operations(self) -> list[Operation]:
        """Its row of the table of routes."""
        return [
            Operation("GET", "/v1/models", "Models that cars here offer", self._list, _MODELS),
            Operation("GET", "/v1/models/{id:path}", "One of them", self._one, MODEL),
        ]

    async def _list(self, call: Call) -> Answer:
        offered = self._runtime.catalogue.models
        return answer({"object": "list", "data": [self._model(offered[name]) for name in sorted(offered)]})

    async def _one(self, call: Call) -> Answer:
        return answer(self._model(self._runtime.catalogue.offered(call.path["id"])))

    def _model(self, model: OfferedModel) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._began_s,
            "owned_by": "carpool",
            "kind": model.kind,
            "cars": self._runtime.vehicles.capable(model.name),
            "context_tokens": model.context_tokens,
        }
