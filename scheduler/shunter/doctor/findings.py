"""What a check says."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    ok = "ok"
    warning = "warning"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is what to do about it; empty where there is nothing to do."""

    state: State
    message: str
    remedy: str = ""


def ok(message: str) -> Finding:
    return Finding(State.ok, message)


def warning(message: str, remedy: str) -> Finding:
    return Finding(State.warning, message, remedy)


def failed(message: str, remedy: str) -> Finding:
    return Finding(State.failed, message, remedy)


def skipped(message: str, remedy: str = "") -> Finding:
    return Finding(State.skipped, message, remedy)
