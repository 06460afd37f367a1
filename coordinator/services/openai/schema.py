"""Values held against a schema: the part of JSON Schema that the operations use, so that the page that describes
them says just what is checked. Knows no field."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.services.openai.errors import BadField

Schema = Mapping[str, Any]

_SHOWN_CHARACTERS = 60

_IS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
_CALLED: Mapping[str, str] = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def check(value: Any, schema: Schema, where: str = "") -> None:
    """Raises BadField where a value is not as the schema says; `where` names it."""
    wrong = _wrong(value, schema, where)
    if wrong is not None:
        place, shown, wanted = wrong
        raise BadField(place, f"{place or 'the body'} is {shown}; give {wanted}")


def _wrong(value: Any, schema: Schema, where: str) -> tuple[str, str, str] | None:
    """The first place that is not as it should be, what stands there, and what should; None: all is well."""
    kinds = schema.get("type")
    if kinds is not None:
        for kind in (kinds,) if isinstance(kinds, str) else kinds:
            if _IS[kind](value):
                break
        else:
            return where, _shown(value), wanted(schema)
    if "anyOf" in schema:
        return _none_fits(value, schema, where)
    if "enum" in schema and not any(value == one and type(value) is type(one) for one in schema["enum"]):
        return where, _shown(value), wanted(schema)
    if isinstance(value, str):
        fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    elif isinstance(value, dict):
        fits = len(value) <= schema.get("maxProperties", len(value))
    elif isinstance(value, list):
        fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    elif isinstance(value, int | float):
        fits = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    else:
        fits = True
    if not fits:
        return where, _shown(value), wanted(schema)
    if isinstance(value, list) and "items" in schema:
        return _wrong_item(value, schema["items"], where)
    if isinstance(value, dict):
        return _wrong_property(value, schema, where)
    return None


def _wrong_item(value: list[Any], schema: Schema, where: str) -> tuple[str, str, str] | None:
    if schema == TOKEN and set(map(type, value)) == {int} and min(value) >= 0 and max(value) < 1 << 31:
        return None  # asked at once: there may be many thousands of them
    for index, item in enumerate(value):
        if (wrong := _wrong(item, schema, f"{where}[{index}]")) is not None:
            return wrong
    return None


def _wrong_property(value: dict[str, Any], schema: Schema, where: str) -> tuple[str, str, str] | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name}".lstrip("."), "missing", wanted(schema["properties"][name])
    for name, known in schema.get("properties", {}).items():
        if name in value and (wrong := _wrong(value[name], known, f"{where}.{name}".lstrip("."))) is not None:
            return wrong
    names, others = schema.get("propertyNames", {}), schema.get("additionalProperties", {})
    for name in value if names or others else ():
        wrong = _wrong(name, names, f"a name in {where or 'the body'}")
        if wrong is None and name not in schema.get("properties", {}):
            wrong = _wrong(value[name], others, f"{where}.{name}".lstrip("."))
        if wrong is not None:
            return wrong
    return None


def _none_fits(value: Any, schema: Schema, where: str) -> tuple[str, str, str] | None:
    deepest: tuple[str, str, str] | None = None
    for choice in schema["anyOf"]:
        if (
            isinstance(value, list)
            and value
            and "items" in choice
            and _wrong(value[0], choice["items"], "") is None
        ):
            return _wrong(value, choice, where)  # it is a list of these
        wrong = _wrong(value, choice, where)
        if wrong is None:
            return None
        if wrong[0] != where:
            deepest = wrong  # the value is of this choice, but for a part of it
    return deepest or (where, _shown(value), wanted(schema))


def wanted(schema: Schema) -> str:
    """What a schema takes, in words."""
    if "anyOf" in schema:
        return " or ".join(wanted(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"])
    kinds = schema.get("type", ())
    words = " or ".join(_CALLED[kind] for kind in ((kinds,) if isinstance(kinds, str) else kinds)) or "a value"
    for least, most, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if least in schema and most in schema:
            words += f" from {schema[least]} to {schema[most]}" if not unit else ""
            words += f" of {schema[least]} to {schema[most]}{unit}" if unit else ""
        elif least in schema:
            words += f" of at least {schema[least]}{unit}"
        elif most in schema:
            words += f" of at most {schema[most]}{unit}"
    return words


NAME: Schema = {"type": "string", "maxLength": 256}
"""Of a model: what is longer is none."""

TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
"""A number in a model's vocabulary."""


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
