"""/v1/completions: how texts go on, in the older form of such calls."""

from typing import Any

from coordinator.runtime import Runtime
from coordinator.services.openai.choices import Asked, Choice, Style
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.generation import COMMON, USAGE, answering, ask
from coordinator.services.openai.operation import Operation, Schema
from coordinator.services.openai.replies import Replies
from coordinator.services.openai.schema import TOKEN

_PATH = "/v1/completions"
_MOST_PROMPTS = 64
_DEFAULT_TOKENS = 16
"""Of an answer when the request names no limit, as with OpenAI."""

_TEXT: Schema = {"type": "string", "minLength": 1}
_TOKENS: Schema = {"type": "array", "items": TOKEN, "minItems": 1}
BODY: Schema = {
    "type": "object",
    "properties": {
        **COMMON,
        "prompt": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": _MOST_PROMPTS},
                _TOKENS,
                {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": _MOST_PROMPTS},
            ]
        },
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "echo": {"enum": [False]},
        "best_of": {"type": "integer", "minimum": 1},
    },
    "required": ["model", "prompt"],
}
_ANSWER: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["text_completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "text": {"type": "string"},
                    "logprobs": {"type": ["object", "null"]},
                    "finish_reason": {"enum": ["stop", "length"]},
                },
                "required": ["index", "text", "logprobs", "finish_reason"],
            },
        },
        "usage": USAGE,
    },
    "required": ["id", "object", "created", "model", "choices", "usage"],
}


class TextStyle(Style):
    """Answers as plain texts."""

    whole, piece, mark = "text_completion", "text_completion", "cmpl"

    def __init__(self, logprobs: bool) -> None:
        """`logprobs`: whether they are told."""
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}  # characters of the tokens of each choice that were told

    def choice(self, choice: Choice) -> dict[str, Any]:
        return self.more(choice, "".join(choice.pieces), choice.likelihoods)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        return None

    def more(self, choice: Choice, text: str, likelihoods: list[Any]) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": self._lists(choice.index, likelihoods) if self._logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _lists(self, index: int, likelihoods: list[Any]) -> dict[str, Any]:
        """The older form: a list for each thing that is told of tokens."""
        offsets = []
        for entry in likelihoods:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in likelihoods],
            "token_logprobs": [entry["logprob"] for entry in likelihoods],
            "top_logprobs": [_by_text(entry["top_logprobs"]) for entry in likelihoods],
            "text_offset": offsets,
        }


def _by_text(likeliest: list[Any]) -> dict[str, float]:
    """Of tokens that look alike, as parts of a character do, the likeliest: they come in that order."""
    told: dict[str, float] = {}
    for entry in likeliest:
        told.setdefault(entry["token"], entry["logprob"])
    return told


def completions(runtime: Runtime, replies: Replies) -> Operation:
    """Its row of the table of routes."""
    return answering(runtime, replies, _PATH, "How texts go on", _ANSWER, BODY, text_asked)


def text_asked(body: dict[str, Any]) -> tuple[Style, Asked]:
    """What a body asks for, whether its model is here or not."""
    fields = dict(body)
    prompt, top, best_of = fields.pop("prompt"), fields.pop("logprobs", None), fields.pop("best_of", 1)
    fields.pop("echo", None)
    fields.setdefault("max_tokens", _DEFAULT_TOKENS)
    if best_of != 1 and best_of != body.get("n", 1):
        raise BadField("best_of", f"best_of is {best_of}; every answer that is made is told here: leave it out")
    if top is not None:
        fields |= {"logprobs": True, "top_logprobs": top}
    prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    return TextStyle(top is not None), ask(fields, [{"prompt": one} for one in prompts])
