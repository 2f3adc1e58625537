"""How findings are shown: for people on 80 columns, or as JSON."""

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shunter.doctor.findings import Finding, State

Findings = list[tuple[str, Finding]]
_COLOURS = {State.ok: "green", State.warning: "yellow", State.failed: "red", State.skipped: "dim"}


def failures(findings: Findings) -> int:
    return sum(finding.state is State.failed for _, finding in findings)


def render(what: str, findings: Findings) -> Group:
    """One row a finding, its remedy below it, and the sum."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for width in (7, 10, None):
        table.add_column(width=width, overflow="fold")
    for check, finding in findings:
        said = Text(finding.message)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.state, style=_COLOURS[finding.state]), check, said)
    counts = [f"{n} {s}" for s in State if (n := sum(f.state is s for _, f in findings))]
    return Group(Text(what, style="bold"), table, Text(", ".join(counts)))


def as_json(what: str, findings: Findings) -> str:
    rows = [
        {"check": c, "state": f.state, "message": f.message, "remedy": f.remedy}
        for c, f in findings
    ]
    report = {"checked": what, "failed": failures(findings), "findings": rows}
    return msgspec.json.format(msgspec.json.encode(report)).decode()
