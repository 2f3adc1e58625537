"""Markdown of the page: tables, intervals, and the part of a file that is generated."""

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path

from experiments.definitions import Section, Target
from experiments.intervals import Interval

BEGIN, END = "<!-- experiments: begin -->", "<!-- experiments: end -->"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def paragraph(text: str) -> str:
    """One line, as the page's paragraphs are, of a text over several."""
    return " ".join(text.split())


def figure(value: float) -> str:
    """Three significant digits, without exponents."""
    if not isfinite(value):
        return "-"
    if value and abs(value) < 100:
        digits = max(0, 2 - _exponent(value))
        return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def _exponent(value: float) -> int:
    return int(f"{value:.2e}".split("e")[1])


def interval(found: Interval) -> str:
    """`0.83 (0.71 to 0.97)`; without ends where there are too few seeds."""
    if not (isfinite(found.low) and isfinite(found.high)) or found.pairs < 2:
        return figure(found.value)
    return f"{figure(found.value)} ({figure(found.low)} to {figure(found.high)})"


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def overview(sections: Sequence[tuple[Section, str]]) -> list[str]:
    """One row a section, with the seeds that it has: how many of its targets are reached."""
    rows = [
        [
            section.title,
            seeds,
            f"{sum(target.reached for target in section.targets)} of {len(section.targets)}",
        ]
        for section, seeds in sections
    ]
    return table(["experiment", "seeds", "targets reached"], rows)


def section_lines(section: Section, how_much: str, plots: str) -> list[str]:
    """`plots` is the folder of the plots as the page sees it."""
    lines = ["", f"### {section.title}", "", *section.lines, "", how_much]
    if section.targets:
        lines += ["", *(_target(target) for target in section.targets)]
    for name in section.plots:
        lines += ["", f"![{section.title}: {name}]({plots}/{name}.svg)"]
    return lines


def _target(target: Target) -> str:
    return f"- {'Reached' if target.reached else '**Not reached**'}: {target.text}"


def replace_generated(page: Path, lines: Iterable[str]) -> None:
    """Puts `lines` between the marks. Raises ValueError where the page has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks {BEGIN} and {END}")
    body = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")
