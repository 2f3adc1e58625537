"""What msgspec says of a body that does not fit: in words and with its place, never with values."""

import re

import msgspec

_PLACE = re.compile(r"^(?P<problem>.*?) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def problem_and_field(error: msgspec.ValidationError) -> tuple[str, str | None]:
    """The problem, and the path of the field at fault, such as `messages[0].role`; None where it
    is the body itself."""
    problem, path = str(error), ""
    if place := _PLACE.match(problem):
        problem, path = place["problem"], place["path"]
    if missing := _MISSING.search(problem):
        path = ".".join(part for part in (path, missing["field"]) if part)
    return problem, path or None
