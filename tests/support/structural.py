"""What an API server does with a structural schema, as far as ours use it, without CEL."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

Schema = dict[str, Any]
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}


def violations(value: Any, schema: Schema, at: str = "") -> list[str]:
    """The place of everything that the schema refuses."""
    return list(_violations(value, schema, at))


def _violations(value: Any, schema: Schema, at: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield at
            return
    elif not isinstance(value, _TYPES[schema["type"]]) or (
        isinstance(value, bool) and schema["type"] != "boolean"
    ):
        yield at
        return
    if "enum" in schema and value not in schema["enum"]:
        yield at
    match value:
        case str():
            yield from _text(value, schema, at)
        case int() if "minimum" in schema or "maximum" in schema:
            if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
                yield at
        case list():
            if not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
                yield at
            for index, item in enumerate(value):
                yield from _violations(item, schema["items"], f"{at}[{index}]")
        case dict():
            yield from _object(value, schema, at)


def _text(value: str, schema: Schema, at: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield at
    if "pattern" in schema and not re.search(schema["pattern"].replace("$", r"\Z"), value):
        yield at
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield at


def _object(value: dict[str, Any], schema: Schema, at: str) -> Iterator[str]:
    if len(value) > schema.get("maxProperties", len(value)):
        yield at
    yield from (f"{at}.{key}" for key in schema.get("required", ()) if key not in value)
    for key, inner in value.items():
        known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        if known is not None:  # what is unknown is dropped, or kept as it is
            yield from _violations(inner, known, f"{at}.{key}")


def walk(schema: Schema, at: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema inside a schema, with the path of the values that it is for."""
    yield at, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{at}.{name}".removeprefix("."))
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from walk(schema[key], at + suffix)
