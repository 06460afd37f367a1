"""Bodies of requests: JSON read strictly, and held against what the operation takes."""

import json
import sys
from collections import Counter
from math import isinf
from typing import Any, NoReturn

from coordinator.refusal import Refusal, Refused
from coordinator.services.openai.call import Call
from coordinator.services.openai.schema import Schema, check

MOST_BYTES = 4 << 20
"""Of a JSON body: reading this much takes up to about 0.15 s of the loop."""
_MOST_OBJECTS = 50_000
"""In a JSON body: each costs about a microsecond of the loop (measured), and four bytes may be one."""


async def read(call: Call, schema: Schema) -> dict[str, Any]:
    """The JSON object that a call brings. Fields that are null are left out: clients mean nothing by them."""
    kind = call.header("content-type").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Refused(Refusal.WRONG_FORM, f"the body is {kind!r}; send JSON, with content-type: application/json")
    body = parse(await call.body(MOST_BYTES))
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if value is not None}
    check(body, schema)
    fields: dict[str, Any] = body
    return fields


def parse(text: bytes) -> Any:
    """JSON, of which each object names a field once and each number is one; refused otherwise."""
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_Objects(), parse_constant=_no_number, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise Refused(Refusal.BAD_INPUT, f"the body is not UTF-8: byte {error.start} is {error.reason}") from None
    except RecursionError:
        raise Refused(Refusal.BAD_INPUT, "the body is nested too deeply to be read; flatten it") from None
    except json.JSONDecodeError as error:
        raise Refused(Refusal.BAD_INPUT, f"the body is not JSON: {error}") from None
    except ValueError:
        message = f"the body has a whole number of over {sys.get_int_max_str_digits()} digits; shorten it"
        raise Refused(Refusal.BAD_INPUT, message) from None


class _Objects:
    """Makes the objects of one body, each of which names a field once."""

    def __init__(self) -> None:
        self._made = 0

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._made += 1
        if self._made > _MOST_OBJECTS:
            raise Refused(Refusal.BAD_INPUT, f"the body has over {_MOST_OBJECTS} objects, the limit; split it")
        fields = dict(pairs)
        if len(fields) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise Refused(Refusal.BAD_INPUT, f"the body is not JSON: the field {twice!r} is given twice")
        return fields


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        shown = text if len(text) < 24 else f"{text[:20]}…"
        raise Refused(Refusal.BAD_INPUT, f"the body has the number {shown}; the limit is {sys.float_info.max:.2g}")
    return number


def _no_number(name: str) -> NoReturn:
    raise Refused(Refusal.BAD_INPUT, f"the body is not JSON: {name} is no number")
