"""One line per request, for tools that want more than a summary."""

import csv
import io

import numpy as np

from shunter_simulator.virtual.columns import FIELDS, NAMED
from shunter_simulator.virtual.results import Results


def csv_text(results: Results) -> str:
    """A head with the names of all columns, then a line per request in order of arrival. Times are
    seconds with six decimals; empty where there is none."""
    columns = []
    for name, (kind, _) in FIELDS.items():
        if name in NAMED:
            columns.append(results.text(name).tolist())
        elif kind == "f8":
            values = results.columns[name].tolist()
            columns.append(["" if np.isnan(value) else f"{value:.6f}" for value in values])
        else:
            columns.append(results.columns[name].tolist())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()
