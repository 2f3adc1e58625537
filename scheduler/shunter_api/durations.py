"""Durations as Kubernetes writes them (`500ms`, `2s`, `1h30m`), parsed to seconds and back."""

import re
from decimal import Decimal

_UNITS_S = {"ms": "0.001", "s": "1", "m": "60", "h": "3600"}
_NUMBER = r"[0-9]{1,7}(\.[0-9]{1,9})?"
DURATION = rf"^({_NUMBER}(ms|s|m|h))+$"
MAX_CHARACTERS = 32
_WHOLE = re.compile(DURATION)
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h)")
ACCEPTED = "a number with a unit: ms, s, m or h, such as 500ms, 2s, 10m, 1h30m"


def parse_duration(text: object) -> float:
    """Seconds of a duration text. Raises ValueError where it is none."""
    if not isinstance(text, str):
        raise ValueError(f"a duration is {ACCEPTED}; found {text!r}")
    if len(text) > MAX_CHARACTERS or not _WHOLE.fullmatch(text):
        raise ValueError(f"a duration is {ACCEPTED}; found {text[:40]!r}")
    parts = (Decimal(part[1]) * Decimal(_UNITS_S[part[3]]) for part in _PART.finditer(text))
    return float(sum(parts))  # decimals: 940ms is 0.94 s to the last bit


def duration_text(seconds: float) -> str:
    """A short text with one unit that `parse_duration` reads as so many seconds."""
    part = "s" if seconds >= 1 else "ms"
    unit = next((u for u in ("h", "m") if not seconds % float(_UNITS_S[u])), part)
    return f"{seconds / float(_UNITS_S[unit]):.9f}".rstrip("0").rstrip(".") + unit
