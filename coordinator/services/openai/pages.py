"""Lists that are told a page at a time, and what calls for them may ask."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from coordinator.services.openai.call import Answer, Call, answer
from coordinator.services.openai.errors import BadField
from coordinator.services.openai.schema import Schema, check


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked for: so many at most, those behind `after`."""

    limit: int
    after: str
    oldest_first: bool
    purpose: str


def query(usual: int, most: int) -> Mapping[str, Schema]:
    """Parameters of such a call."""
    return {
        "limit": {"type": "integer", "minimum": 1, "maximum": most, "default": usual},
        "after": {"type": "string"},
        "order": {"enum": ["asc", "desc"]},
        "purpose": {"type": "string"},
    }


def asked(call: Call, known: Mapping[str, Schema]) -> Page:
    """The page that a call asks for; refused when no page is like that."""
    given = call.query()
    limit = known["limit"]["default"]
    if "limit" in given:
        if not given["limit"].isdecimal() or len(given["limit"]) > 9:
            raise BadField("limit", f"limit is {given['limit']!r}; give a whole number")
        limit = int(given["limit"])
    check(limit, known["limit"], "limit")
    order = given.get("order", "desc")
    check(order, known["order"], "order")
    return Page(limit, given.get("after", ""), order == "asc", given.get("purpose", ""))


def told(found: Sequence[_T], page: Page, shape: Callable[[_T], dict[str, Any]]) -> Answer:
    """A page; `found` has one more than it asks for, if there is one."""
    shown = found[: page.limit]
    return answer(
        {
            "object": "list",
            "data": [shape(one) for one in shown],
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
            "has_more": len(found) > len(shown),
        }
    )


def listed(shape: Schema) -> Schema:
    """The schema of a page of these."""
    return {
        "type": "object",
        "properties": {
            "object": {"enum": ["list"]},
            "data": {"type": "array", "items": shape},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean"},
        },
        "required": ["object", "data", "has_more"],
    }
