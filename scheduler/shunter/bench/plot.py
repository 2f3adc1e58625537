"""Four panels: distributions of TTFT, TPOT and end-to-end time, and load over time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from shunter.bench.records import Record
from shunter.failure import Failure
from shunter_simulator.reports.figures import Slo
from shunter_simulator.reports.plots import (
    PlotError,
    distribution,
    load_panel,
    save_panels,
)


def save_plot(records: Sequence[Record], slo: Slo, path: Path) -> None:
    """Raises `Failure` where matplotlib is missing or the file cannot be written."""
    good = [r for r in records if not r.error]
    ttft_s = [r.first_token_s for r in good if r.first_token_s is not None]
    tpot_s = [t for r in good if (t := r.tpot_s) is not None]
    panels = (
        partial(distribution, label="TTFT (s)", lines=[("", ttft_s)], target=slo.ttft_s),
        partial(distribution, label="TPOT (s)", lines=[("", tpot_s)], target=slo.tpot_s),
        partial(distribution, label="end to end (s)", lines=[("", [r.end_s for r in good])]),
        partial(
            load_panel,
            began_s=[r.due_s for r in records],
            ended_s=[r.due_s + r.end_s for r in records],
        ),
    )
    try:
        save_panels(panels, path)
    except PlotError as error:
        raise Failure(str(error), error.next_step) from error
