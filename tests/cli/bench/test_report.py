from array import array

import msgspec
import pytest
from rich.console import Console

from shunter.bench.records import Record
from shunter.bench.report import Report, Scope, build_report, count_met
from shunter.bench.table import render
from shunter_simulator.reports.figures import Slo

SLO = Slo(ttft_s=0.5, tpot_s=0.1)


def record(
    index: int = 0,
    due_s: float = 0.0,
    ttft_s: float = 0.2,
    gaps_s: tuple[float, ...] = (0.05, 0.05, 0.2),
    error: str = "",
    model: str = "m",
) -> Record:
    r = Record(index, model, due_s, 10, len(gaps_s) + 1)
    r.end_s = ttft_s + sum(gaps_s)
    if error:
        r.error, r.detail = error, f"{error} of {index}"
        return r
    r.first_token_s, r.last_token_s = ttft_s, r.end_s
    r.gaps_s = array("d", gaps_s)
    r.token_events = r.output_tokens = len(gaps_s) + 1
    r.prompt_tokens = 10
    return r


def test_tpot_is_the_time_after_the_first_token_per_further_token() -> None:
    assert record().tpot_s == pytest.approx(0.1)
    assert record(gaps_s=()).tpot_s is None


@pytest.mark.parametrize(
    ("ttft_s", "gaps_s", "met"),
    [
        (0.5, (0.1, 0.1), True),
        (0.51, (0.1,), False),
        (0.1, (0.1, 0.11), False),
        (0.1, (0.19, 0.001), True),  # the mean counts, not the longest gap
        (0.4, (), True),  # one token has no TPOT
    ],
)
def test_goodput_needs_both_targets(ttft_s: float, gaps_s: tuple[float, ...], met: bool) -> None:
    assert count_met([record(ttft_s=ttft_s, gaps_s=gaps_s)], SLO) == met


def test_failed_requests_lower_goodput_but_not_latency() -> None:
    records = [record(0), record(1, due_s=1.55), record(2, error="timeout", ttft_s=9.0)]
    report = build_report(records, SLO, Scope(planned=4))
    assert report.duration_s == pytest.approx(9.3)
    figures = report.overall
    assert (figures.ended, figures.succeeded, figures.output_tokens) == (3, 2, 8)
    assert figures.goodput.share == pytest.approx(2 / 3)
    assert figures.goodput.requests_per_s == pytest.approx(2 / 9.3)
    assert figures.latencies.ttft_s is not None
    assert figures.latencies.ttft_s.max == pytest.approx(0.2)
    assert figures.latencies.itl_s is not None
    assert figures.latencies.itl_s.count == 6


def test_errors_are_counted_by_kind_with_the_first_as_example() -> None:
    records = [record(i, error="HTTP 429" if i else "timeout") for i in range(4)]
    report = build_report(records, SLO, Scope(planned=4))
    assert [(e.kind, e.count, e.example) for e in report.errors] == [
        ("HTTP 429", 3, "HTTP 429 of 1"),
        ("timeout", 1, "timeout of 0"),
    ]


def test_answers_of_another_length_are_named() -> None:
    short, silent, loose = record(4), record(2), record(0)
    short.output_tokens = 3
    silent.output_tokens = None
    loose.output_tokens = 99
    loose.asked_output_tokens = None
    report = build_report([short, silent, loose, record(1)], SLO, Scope(planned=4))
    assert report.mismatches_total == 2
    assert [(m.index, m.what) for m in report.mismatches] == [
        (2, "output tokens not reported, asked 4"),
        (4, "output tokens 3, asked 4"),
    ]


def test_each_model_has_its_own_figures() -> None:
    records = [record(0, model="a"), record(1, model="b", ttft_s=0.4), record(2, model="b")]
    report = build_report(records, SLO, Scope(planned=3))
    assert {name: f.ended for name, f in report.models.items()} == {"a": 1, "b": 2}
    ttft = report.models["b"].latencies.ttft_s
    assert ttft is not None
    assert ttft.mean == pytest.approx(0.3)


def test_a_run_without_any_answer_still_gives_a_report() -> None:
    report = build_report([], SLO, Scope(planned=3, interrupted=True))
    assert report.overall.latencies.ttft_s is None
    assert report.overall.goodput.share == 0


def test_the_table_fits_80_columns_and_shows_what_went_wrong() -> None:
    records = [record(i, model="ab"[i % 2]) for i in range(8)]
    records += [record(i, error="HTTP 503") for i in range(8, 10)]
    records[0].output_tokens = 1
    report = build_report(records, SLO, Scope(planned=10))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(report))
    console.file.close()
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    for part in ("8 of 10 requests", "TTFT", "200.0", "HTTP 503", "asked: 1", "Goodput"):
        assert part in text


def test_the_json_reads_back_as_the_same_report() -> None:
    report = build_report([record(0), record(1, error="timeout")], SLO, Scope(planned=2))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
