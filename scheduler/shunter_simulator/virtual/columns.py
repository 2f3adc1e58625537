"""What becomes of requests, as columns: one row each, written when it ends."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]

_NAN = float("nan")
FIELDS: Mapping[str, tuple[str, float]] = {
    "arrival_s": ("f8", _NAN),
    "ttft_s": ("f8", _NAN),
    "e2e_s": ("f8", _NAN),
    "queued_s": ("f8", _NAN),
    "prompt_tokens": ("i4", 0),
    "output_tokens": ("i4", 0),
    "asked_tokens": ("i4", 0),
    "slo_class": ("i4", 0),
    "tenant": ("i4", 0),
    "model": ("i4", 0),
    "pool": ("i4", 0),
    "instance": ("i4", 0),
    "outcome": ("i4", 0),
    "workflow": ("i4", 0),
    "stage": ("i4", 0),
    "due_s": ("f8", _NAN),  # when the workflow has to be done
    "preemptions": ("i4", 0),
    "preemption_loss_s": ("f8", 0.0),
    "moves": ("i4", 0),
    "stall_s": ("f8", 0.0),
    "suspensions": ("i4", 0),
    "failures": ("i4", 0),
    "retries": ("i4", 0),
    "cached_tokens": ("i4", 0),
    "predicted_cached_tokens": ("i4", 0),
}
"""Type and value of a row that was not written. Names are codes into `Names`."""


class Names:
    """Texts as small numbers; "" is 0."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {"": 0}

    def code(self, name: str) -> int:
        known = self._codes.get(name)
        if known is None:
            known = self._codes[name] = len(self._codes)
        return known

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._codes)


NAMED = (
    "slo_class",
    "tenant",
    "model",
    "pool",
    "instance",
    "outcome",
    "workflow",
    "stage",
)


class RequestColumns:
    """Grows by doubling."""

    def __init__(self) -> None:
        self.rows = 0
        self.names: dict[str, Names] = {name: Names() for name in NAMED}
        self._columns: dict[str, Column] = {name: self._empty(name, 1024) for name in FIELDS}

    @staticmethod
    def _empty(name: str, rows: int) -> Column:
        kind, value = FIELDS[name]
        return np.full(rows, value, dtype=kind)

    def new_row(self) -> int:
        row = self.rows
        self.rows += 1
        capacity = len(self._columns["arrival_s"])
        if row >= capacity:
            self._columns = {
                name: np.concatenate([column, self._empty(name, capacity)])
                for name, column in self._columns.items()
            }
        return row

    def put(self, row: int, values: Iterable[tuple[str, float]]) -> None:
        for name, value in values:
            self._columns[name][row] = value

    def done(self) -> dict[str, Column]:
        """The columns, cut to their rows and read-only."""
        cut = {name: column[: self.rows].copy() for name, column in self._columns.items()}
        for column in cut.values():
            column.flags.writeable = False
        return cut
