"""Kinds of values that only scenarios have."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from shunter_api.durations import DURATION, MAX_CHARACTERS, duration_text, parse_duration

MAX_S = 30 * 86_400.0

# Seconds, written as a text such as 0.3ms or 0s; unlike a `Duration` it may be nothing.
Delay = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=MAX_S),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": DURATION, "maxLength": MAX_CHARACTERS}),
]
Share = Annotated[float, Field(ge=0, le=1)]


def _interval_or_step(value: object) -> object:
    if value == "step":
        return value
    seconds = parse_duration(value)
    if not 0 < seconds <= MAX_S:
        raise ValueError("an interval is more than 0s and at most 720h")
    return seconds


ObserveEvery = Annotated[
    float | Literal["step"],
    BeforeValidator(_interval_or_step),
    PlainSerializer(
        lambda value: value if isinstance(value, str) else duration_text(value),
        return_type=str,
        when_used="json",
    ),
    WithJsonSchema({"type": "string", "pattern": f"^step$|{DURATION}"}),
]
