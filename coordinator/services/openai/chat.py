"""/v1/chat/completions: the next message of a conversation."""

from typing import Any

from coordinator.answers import message
from coordinator.runtime import Runtime
from coordinator.services.openai.choices import Asked, Choice, Style
from coordinator.services.openai.generation import COMMON, USAGE, answering, ask
from coordinator.services.openai.operation import Operation, Schema
from coordinator.services.openai.replies import Replies

_PATH = "/v1/chat/completions"
_PART: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
    },
    "required": ["role", "content"],
}
BODY: Schema = {
    "type": "object",
    "properties": {
        **COMMON,
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        "max_completion_tokens": COMMON["max_tokens"],
        "logprobs": {"type": "boolean"},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["model", "messages"],
}
_ANSWER: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["chat.completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "message": {
                        "type": "object",
                        "properties": {"role": {"enum": ["assistant"]}, "content": {"type": "string"}},
                        "required": ["role", "content"],
                    },
                    "logprobs": {"type": ["object", "null"]},
                    "finish_reason": {"enum": ["stop", "length"]},
                },
                "required": ["index", "message", "logprobs", "finish_reason"],
            },
        },
        "usage": USAGE,
    },
    "required": ["id", "object", "created", "model", "choices", "usage"],
}


class ChatStyle(Style):
    """Answers as messages."""

    whole, piece, mark = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, logprobs: bool) -> None:
        """`logprobs`: whether they are told."""
        self._logprobs = logprobs

    def choice(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._content(choice.likelihoods)
        return message(choice.index, "".join(choice.pieces), logprobs, choice.finish_reason)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        return _piece(choice.index, {"role": "assistant", "content": ""}, None, None)

    def more(self, choice: Choice, text: str, likelihoods: list[Any]) -> dict[str, Any]:
        if choice.finish_reason is not None:
            return _piece(choice.index, {}, None, choice.finish_reason)
        return _piece(choice.index, {"content": text}, self._content(likelihoods), None)

    def _content(self, likelihoods: list[Any]) -> dict[str, Any] | None:
        return {"content": likelihoods, "refusal": None} if self._logprobs else None


def _piece(
    index: int, delta: dict[str, str], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def chat(runtime: Runtime, replies: Replies) -> Operation:
    """Its row of the table of routes."""
    return answering(runtime, replies, _PATH, "The next message of a conversation", _ANSWER, BODY, chat_asked)


def chat_asked(body: dict[str, Any]) -> tuple[Style, Asked]:
    """What a body asks for, whether its model is here or not."""
    return ChatStyle(body.get("logprobs", False)), ask(body, [{}])
