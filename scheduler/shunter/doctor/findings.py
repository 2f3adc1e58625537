"""What a check says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

SHOWN = 5  # of findings of one kind


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


def cut(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The worst first; of a long list the beginning, and how many more there are."""
    worst = sorted(findings, key=lambda finding: finding.state is not State.failed)
    yield from worst[:SHOWN]
    if rest := worst[SHOWN:]:
        yield Finding(rest[0].state, f"{len(rest)} more like these", rest[0].remedy)
