"""A request for an answer: the body of an OpenAI chat completion, or of a completion, read and checked, and the
answer's form.

It knows JSON and the fields that change an answer; tokens and tensors are `generate`'s.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.workloads import BadInput

DEFAULT_TOKENS = 64
"""Tokens of an answer when the request names no limit. Assumed: two or three sentences."""

_ROLES: Mapping[str, str] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_STOPS = 16
"""Stop strings of a request, at most: each is looked for at each token. OpenAI's own limit is 4."""

MOST_STOP_CHARACTERS = 2_048
"""Of all of them together. Assumed."""

_IGNORED = frozenset(
    (
        *("model", "user", "metadata", "store", "stream", "stream_options", "service_tier"),
        *("safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    )
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "min_p": (0,),
    "top_k": (-1, 0),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "skip_special_tokens": (True,),
}
"""Fields that clients send and that are understood at these values only, at which they change nothing."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to answer, and how."""

    messages: tuple[Mapping[str, str], ...]  # each with "role" and "content"; empty: there is a prompt
    max_tokens: int
    temperature: float  # 0: always the likeliest token
    top_p: float
    seed: int
    stop: tuple[str, ...]  # the answer ends before any of these
    logprobs: bool  # say how likely each token was
    top_logprobs: int  # and so many of the likeliest in its place
    prompt: str | tuple[int, ...] | None = None  # to go on from as it is: text, or tokens; None: there are messages
    ignore_eos: bool = False  # go on after a token that ends an answer, for `max_tokens`


def read_request(payload: bytes) -> ChatRequest:
    """Read a request. Raises BadInput naming the field."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the request is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadInput(f"the request is a JSON {type(body).__name__}, not an object with `messages` or `prompt`")
    fields = {key: value for key, value in body.items() if key not in _IGNORED and value is not None}
    if ("messages" in fields) == ("prompt" in fields):
        raise BadInput("the request must have one of `messages` and `prompt`")
    older = fields.pop("max_tokens", DEFAULT_TOKENS)
    limit = fields.pop("max_completion_tokens", older)
    request = ChatRequest(
        messages=_messages(fields.pop("messages")) if "messages" in fields else (),
        max_tokens=int(_number("max_tokens", limit, 1, 1 << 20, whole=True)),
        temperature=_number("temperature", fields.pop("temperature", 0), 0, 2),
        top_p=_number("top_p", fields.pop("top_p", 1), 0, 1),
        # Without a seed the payload gives one, so that a repeated attempt gives the same answer.
        seed=int(_number("seed", fields.pop("seed", _seed_of(payload)), -(1 << 63), (1 << 64) - 1, whole=True)),
        stop=_stops(fields.pop("stop", ())),
        logprobs=_truth("logprobs", fields.pop("logprobs", False)),
        top_logprobs=int(_number("top_logprobs", fields.pop("top_logprobs", 0), 0, 20, whole=True)),
        prompt=_prompt(fields.pop("prompt")) if "prompt" in fields else None,
        ignore_eos=_truth("ignore_eos", fields.pop("ignore_eos", False)),
    )
    if request.top_logprobs and not request.logprobs:
        raise BadInput(f"top_logprobs is {request.top_logprobs} without logprobs; set logprobs to true")
    for field, value in fields.items():
        if not any(_same(value, neutral) for neutral in _NEUTRAL.get(field, ())):
            raise BadInput(f"the field {field!r} is not supported here; leave it out")
    return request


def answer(
    text: str,
    finish_reason: str,
    prompt_tokens: int,
    completion_tokens: int,
    logprobs: Sequence[Mapping[str, Any]] | None = None,
) -> bytes:
    """The result of one request, as JSON; `logprobs` is the `content` of OpenAI's field, a mapping a token."""
    body: dict[str, Any] = {
        "text": text,
        "finish_reason": finish_reason,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }
    if logprobs is not None:
        body["logprobs"] = {"content": logprobs}
    return json.dumps(body, ensure_ascii=False).encode()


def _messages(messages: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise BadInput("`messages` must be a list of at least one message")
    read = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise BadInput(f"messages[{index}] has the role {role!r}; {', '.join(_ROLES)} are known")
        content = _whole(f"messages[{index}].content", _content(message.get("content"), index))
        read.append({"role": _ROLES[role], "content": content})
    return tuple(read)


def _prompt(prompt: Any) -> str | tuple[int, ...]:
    if isinstance(prompt, str) and prompt:
        return _whole("prompt", prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return tuple(prompt)
    raise BadInput("`prompt` must be one text, or one list of token numbers, and not empty")


def _whole(field: str, text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadInput(f"{field} holds half a character (a lone surrogate)")
    return text


def _content(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        parts = [text for text in texts if isinstance(text, str)]
        if len(parts) == len(content):
            return "".join(parts)
    raise BadInput(f"messages[{index}].content must be a string or a list of text parts")


def _number(field: str, value: Any, least: float, most: float, whole: bool = False) -> float:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise BadInput(f"{field} is {value!r}, not a{' whole' if whole else ''} number from {least} to {most}")
    return value


def _truth(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"{field} is {value!r}, not true or false")
    return value


def _stops(stop: Any) -> tuple[str, ...]:
    stops: Sequence[Any] = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or not all(isinstance(text, str) and text for text in stops):
        raise BadInput("stop must be a string or a list of strings, none of them empty")
    if len(stops) > MOST_STOPS:
        raise BadInput(f"stop has {len(stops):,} strings, more than {MOST_STOPS}; leave some out")
    if (characters := sum(map(len, stops))) > MOST_STOP_CHARACTERS:
        raise BadInput(f"stop has {characters:,} characters in all, more than {MOST_STOP_CHARACTERS:,}; shorten it")
    return tuple(stops)


def _same(value: Any, neutral: Any) -> bool:
    """Whether they are equal and of one kind: to Python true is 1, and 1.0 as well."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _seed_of(payload: bytes) -> int:
    return int.from_bytes(hashlib.sha256(payload).digest()[:8], "little")
