"""Tables for a terminal of 80 columns."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from shunter_simulator.reports.figures import Summary

COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


def latency_table(title: str, rows: Iterable[tuple[str, Summary | None]]) -> Table:
    """One row per kind of time, in milliseconds."""
    table = titled_table(f"{title} (ms)", COLUMNS)
    for name, values in rows:
        table.add_row(name, *milliseconds(values))
    return table


def titled_table(title: str, columns: Sequence[str]) -> Table:
    """The first column has names, all others figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def milliseconds(values: Summary | None) -> list[str]:
    if values is None:
        return ["-"] * len(COLUMNS)
    return [f"{getattr(values, column) * 1000:.1f}" for column in COLUMNS]
