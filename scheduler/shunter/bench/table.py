"""The report on a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shunter.bench.report import Figures, Goodput, Report
from shunter_simulator.reports.tables import latency_table

_MISMATCHES_SHOWN = 5


def render(report: Report, *, exact: bool = False) -> RenderableType:
    """`exact` lists every mismatch that the report holds, else a few."""
    parts: list[RenderableType] = [_headline(report)]
    if len(report.models) > 1:
        parts += [_latencies(name, figures) for name, figures in report.models.items()]
    parts.append(_latencies("all requests", report.overall))
    parts.append(_goodput(report.overall.goodput, report.overall.ended))
    parts += [_generator(report), *_errors(report), *_mismatches(report, exact)]
    return Group(*parts)


def _headline(report: Report) -> Text:
    figures = report.overall
    left_out = f", {report.left_out} too long ones left out" if report.left_out else ""
    return Text(
        f"{figures.succeeded} of {report.planned} requests succeeded in {report.duration_s:.1f} s"
        f"{' (interrupted)' if report.interrupted else ''}{left_out}: "
        f"{figures.requests_per_s:.2f} requests/s, {figures.prompt_tokens} prompt and "
        f"{figures.output_tokens} output tokens, {figures.output_tokens_per_s:.0f} output tokens/s"
    )


def _latencies(title: str, figures: Figures) -> Table:
    latencies = figures.latencies
    return latency_table(
        title,
        (
            ("TTFT", latencies.ttft_s),
            ("TPOT", latencies.tpot_s),
            ("ITL", latencies.itl_s),
            ("end to end", latencies.e2e_s),
        ),
    )


def _goodput(goodput: Goodput, ended: int) -> Text:
    return Text(
        f"Goodput: {goodput.requests_per_s:.2f} requests/s; {goodput.share:.1%} of {ended} met "
        f"TTFT <= {goodput.slo_ttft_s * 1000:g} ms and TPOT <= {goodput.slo_tpot_s * 1000:g} ms"
    )


def _generator(report: Report) -> Text:
    late, wait = report.generator.lateness_s, report.generator.slot_wait_s
    text = "Load generator: "
    text += f"late by p50 {late.p50 * 1000:.1f}, p99 {late.p99 * 1000:.1f} ms" if late else "idle"
    if wait and wait.max > 0:
        text += f"; waited for --max-in-flight up to {wait.max:.2f} s"
    return Text(text)


def _errors(report: Report) -> list[RenderableType]:
    if not report.errors:
        return []
    table = Table(title="errors", title_justify="left", title_style="bold red")
    table.add_column("kind", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("for example", overflow="fold")
    for error in report.errors:
        table.add_row(Text(error.kind), str(error.count), Text(error.example[:200]))
    return [table]


def _mismatches(report: Report, exact: bool) -> list[RenderableType]:
    if not report.mismatches_total:
        return []
    shown = report.mismatches if exact else report.mismatches[:_MISMATCHES_SHOWN]
    lines = [f"answers of another length than asked: {report.mismatches_total}"]
    lines += [f"  request {m.index} ({m.model}): {m.what}" for m in shown]
    if len(shown) < report.mismatches_total:
        lines.append(f"  and {report.mismatches_total - len(shown)} more")
    return [Text("\n".join(lines), style="yellow")]
