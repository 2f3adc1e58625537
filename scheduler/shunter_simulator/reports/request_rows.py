"""One line per request, for tools that want more than a summary."""

import csv
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from shunter_simulator.virtual.columns import FIELDS, NAMED
from shunter_simulator.virtual.results import Results

_ROWS_AT_ONCE = 65_536


def write_csv(results: Results, file: IO[str]) -> None:
    """A head with the names of all columns, then a line per request in order of arrival. Times are
    seconds with six decimals; empty where there is none."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    for first in range(0, len(results.columns["arrival_s"]), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        writer.writerows(zip(*(_cells(results, name, rows) for name in FIELDS), strict=True))


def _cells(results: Results, name: str, rows: slice) -> Sequence[object]:
    values: list[Any] = results.columns[name][rows].tolist()
    if name in NAMED:
        texts = results.names[name]
        return [texts[code] for code in values]
    if FIELDS[name][0] == "f8":
        return ["" if np.isnan(value) else f"{value:.6f}" for value in values]
    return values
