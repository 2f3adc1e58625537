"""The report of a simulated run on a terminal of 80 columns."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shunter_simulator.reports.figures import Summary
from shunter_simulator.reports.simulation_report import Figures, MoveCount, SimulationReport
from shunter_simulator.reports.tables import latency_table, titled_table

MAX_ROWS = 12  # of tenants; a report has them all


def render(report: SimulationReport) -> RenderableType:
    return Group(*_parts(report))


def _parts(report: SimulationReport) -> Iterator[RenderableType]:
    yield _headline(report)
    for note in report.notes:
        yield Text(f"note: {note}", style="yellow")
    latencies = report.overall.latencies
    yield latency_table(
        "all requests",
        (
            ("TTFT", latencies.ttft_s),
            ("TPOT", latencies.tpot_s),
            ("end to end", latencies.e2e_s),
            ("queueing", latencies.queueing_s),
        ),
    )
    for title, groups in (
        ("class", report.classes),
        ("tenant", report.tenants),
        ("pool", report.pools),
    ):
        if len(groups) > 1:
            yield _groups(title, groups)
    if report.moves:
        yield _moves(report.moves)
    yield Text("\n".join(_lines(report)))


def _headline(report: SimulationReport) -> Text:
    all_of_them, warmup = report.overall, ""
    if report.left_out:
        warmup = f", {report.left_out} of the warm-up left out"
    return Text(
        f"{report.scenario}, policy {report.policy}, seed {report.seed}: {all_of_them.finished} of "
        f"{all_of_them.requests} requests finished\nin {report.duration_s:.1f} s{warmup}: "
        f"{all_of_them.requests_per_s:.2f} requests/s, "
        f"{all_of_them.output_tokens_per_s:.0f} output tokens/s"
    )


def _groups(title: str, groups: Mapping[str, Figures]) -> Table:
    columns = ("requests", "in SLO", "TTFT p50", "p99", "TPOT p50", "p99", "moves", "loss")
    table = titled_table(f"by {title} (ms)", columns)
    table.collapse_padding = True  # nine columns
    for name, figures in list(groups.items())[:MAX_ROWS]:
        latencies = figures.latencies
        table.add_row(
            name or "-",
            str(figures.requests),
            f"{figures.goodput.share:.1%}",
            *_middle_and_tail(latencies.ttft_s),
            *_middle_and_tail(latencies.tpot_s),
            str(figures.moves),
            f"{figures.preemption_loss_s * 1000:.0f}",
        )
    if len(groups) > MAX_ROWS:
        table.add_row(f"and {len(groups) - MAX_ROWS} more", *[""] * len(columns))
    return table


def _middle_and_tail(values: Summary | None) -> tuple[str, str]:
    if values is None:
        return "-", "-"
    return f"{values.p50 * 1000:.0f}", f"{values.p99 * 1000:.0f}"


def _moves(moves: list[MoveCount]) -> Table:
    table = titled_table("moves", ("rung", "count", "stall p50 (ms)", "p99"))
    for move in moves:
        what = f"{move.reason}: {move.why_not}" if move.why_not else move.reason
        table.add_row(what, move.rung, str(move.count), *_middle_and_tail(move.stall_s))
    return table


def _lines(report: SimulationReport) -> Iterator[str]:
    figures, money, prefix = report.overall, report.money, report.prefix
    goodput = figures.goodput
    yield (
        f"Goodput: {goodput.requests_per_s:.2f} requests/s; {goodput.share:.1%} of "
        f"{figures.requests} met the targets of their class"
    )
    yield (
        f"Preemptions: {figures.preemptions}, loss {figures.preemption_loss_s * 1000:.1f} ms per "
        f"request"
    )
    if prefix.cached_tokens or prefix.predicted_cached_tokens:
        yield (
            f"Prefix hits: {prefix.cached_tokens / prefix.prompt_tokens:.1%} of "
            f"{prefix.prompt_tokens} prompt tokens, predicted "
            f"{prefix.predicted_cached_tokens / prefix.prompt_tokens:.1%}"
        )
    if report.workflows is not None and report.workflows.e2e_s is not None:
        times = report.workflows.e2e_s
        yield (
            f"Workflows: {report.workflows.finished} of {report.workflows.workflows} finished, "
            f"{report.workflows.in_time} in time, "
            f"end to end p50 {times.p50:.1f}, p95 {times.p95:.1f}, p99 {times.p99:.1f} s"
        )
    per_token = ""
    if money.per_million_tokens is not None:
        per_token = f", {money.per_million_tokens:.3f} per million output tokens"
    yield (
        f"Cost: {money.dollars:.2f} dollars for {money.instance_hours:.2f} instance hours"
        f"{per_token}"
    )
    failed = [f"{name} {count}" for name, count in report.outcomes.items() if name != "finished"]
    if failed:
        yield f"Not finished: {', '.join(failed)}"
    if report.counters:
        yield ", ".join(f"{name} {count}" for name, count in report.counters.items())
