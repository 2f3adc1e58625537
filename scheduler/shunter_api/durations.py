"""Durations as Kubernetes writes them (`500ms`, `2s`, `1h30m`), parsed to seconds."""

import re

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h)")
ACCEPTED = "a number with a unit: ms, s, m or h, such as 500ms, 2s, 10m, 1h30m"


def parse_duration(text: object) -> float:
    """Seconds of a duration text. Raises ValueError where it is none."""
    if not isinstance(text, str):
        raise ValueError(f"a duration is {ACCEPTED}; found {text!r}")
    position, seconds = 0, 0.0
    while part := _PART.match(text, position):
        seconds += float(part[1]) * _UNITS_S[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ValueError(f"a duration is {ACCEPTED}; found {text[:40]!r}")
    return seconds
