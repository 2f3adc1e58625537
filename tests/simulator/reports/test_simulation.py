"""The figures of a run, from columns whose values are known."""

from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from shunter_simulator.reports.request_rows import write_csv
from shunter_simulator.reports.simulation import build_report, decode_latency_s
from shunter_simulator.reports.simulation_table import render
from shunter_simulator.virtual.columns import FIELDS, NAMED, Names
from shunter_simulator.virtual.results import (
    InstanceUse,
    LoadSeries,
    MoveRecord,
    Results,
    Targets,
)


def results(rows: list[dict[str, Any]], **fields: Any) -> Results:
    """Each row finished in pool `chat` as class `standard` unless told otherwise."""
    names = {name: Names() for name in NAMED}
    columns = {name: np.full(len(rows), value, kind) for name, (kind, value) in FIELDS.items()}
    usual = {"pool": "chat", "slo_class": "standard", "outcome": "finished", "arrival_s": 0.0}
    for number, row in enumerate(rows):
        for name, value in {**usual, **row}.items():
            code = names[name].code(str(value)) if name in NAMED else value
            columns[name][number] = code
    empty = np.zeros((0, 0), np.float32)
    defaults: dict[str, Any] = {
        "scenario": "made-up",
        "seed": 7,
        "policy": "round-robin",
        "warmup_s": 0.0,
        "duration_s": 10.0,
        "targets": {
            ("chat", "standard"): Targets(1.0, 0.1),
            ("chat", "batch"): Targets(e2e_s=100.0),
        },
        "moves": (),
        "load": LoadSeries(np.zeros(0), np.zeros(0, np.int64), (), empty, empty, empty),
        "instances": (),
        "counters": {},
    }
    texts = {name: known.texts for name, known in names.items()}
    return Results(columns=columns, names=texts, **{**defaults, **fields})


def answer(ttft_s: float, tpot_s: float, tokens: int = 11, **row: Any) -> dict[str, Any]:
    e2e_s = ttft_s + tpot_s * (tokens - 1)
    return {"ttft_s": ttft_s, "e2e_s": e2e_s, "output_tokens": tokens, "prompt_tokens": 100, **row}


def test_tpot_is_the_time_after_the_first_token_per_further_token() -> None:
    made = results([answer(1.0, 0.05), answer(1.0, 0.0, tokens=1)])
    tpot_s = decode_latency_s(made)
    assert tpot_s[0] == pytest.approx(0.05)
    assert np.isnan(tpot_s[1])


def test_goodput_is_by_the_targets_of_each_class_and_counts_what_failed() -> None:
    report = build_report(
        results(
            [
                answer(0.9, 0.09),
                answer(1.1, 0.09),
                answer(0.9, 0.11),
                answer(0.9, 0.0, tokens=1),
                answer(9.0, 9.0, slo_class="batch"),
                answer(9.0, 9.2, slo_class="batch"),  # 101 s
                {"outcome": "overloaded", "e2e_s": 0.1},
            ]
        )
    )
    assert (report.overall.requests, report.overall.finished) == (7, 6)
    assert report.overall.goodput.requests == 3
    assert report.overall.goodput.share == 3 / 7
    assert report.overall.goodput.requests_per_s == pytest.approx(0.3)
    assert report.classes["batch"].goodput.share == 0.5
    assert report.classes["standard"].goodput.share == 2 / 5
    assert report.outcomes == {"finished": 6, "overloaded": 1}
    latencies = report.overall.latencies
    assert latencies.ttft_s is not None
    assert latencies.ttft_s.count == 6
    assert latencies.tpot_s is not None
    assert latencies.tpot_s.count == 5


def test_the_warm_up_is_left_out_of_figures_and_rates() -> None:
    made = results([answer(1, 0.1), answer(2, 0.1, arrival_s=5.0)], warmup_s=5.0)
    report = build_report(made)
    assert (report.overall.requests, report.left_out) == (1, 1)
    assert report.overall.requests_per_s == pytest.approx(1 / 5)


def test_preemption_loss_is_per_request() -> None:
    lost = answer(1, 0.1, preemptions=2, preemption_loss_s=3.0)
    report = build_report(results([lost, answer(1, 0.1), answer(1, 0.1)]))
    assert report.overall.preemptions == 2
    assert report.overall.preemption_loss_s == pytest.approx(1.0)


def test_moves_are_counted_by_reason_rung_and_why_they_failed() -> None:
    def move(moved: bool, stall_s: float = 0.0, reason: str = "drain") -> MoveRecord:
        why_not = "" if moved else "no_room"
        return MoveRecord(1.0, 0, "a", "b", "kv", reason, moved, why_not, stall_s)

    made = results(
        [answer(1, 0.1)], moves=(move(True, 0.1), move(True, 0.3), move(False), move(True, 0, "z"))
    )
    drained, refused, other = build_report(made).moves
    assert (drained.reason, drained.rung, drained.why_not, drained.count) == ("drain", "kv", "", 2)
    assert drained.stall_s is not None
    assert drained.stall_s.mean == pytest.approx(0.2)
    assert (refused.why_not, refused.count, refused.stall_s) == ("no_room", 1, None)
    assert other.reason == "z"


def test_a_workflow_lasts_from_its_first_arrival_to_its_last_end() -> None:
    report = build_report(
        results(
            [
                answer(1, 0, tokens=1, workflow="a", arrival_s=1.0, due_s=4.5),
                answer(2, 0, tokens=1, workflow="a", arrival_s=2.5),
                answer(1, 0, tokens=1, workflow="b", arrival_s=3.0),
                answer(2, 0, tokens=1, workflow="c", arrival_s=3.0, due_s=4.9),
                {"outcome": "error", "e2e_s": 5.0, "workflow": "b", "arrival_s": 4.0},
                answer(1, 0, tokens=1, arrival_s=9.0),
            ]
        )
    )
    workflows = report.workflows
    assert workflows is not None
    assert (workflows.workflows, workflows.finished, workflows.in_time) == (3, 2, 1)
    assert workflows.e2e_s is not None
    assert workflows.e2e_s.max == pytest.approx(3.5)


def test_money_is_by_profile_and_per_token() -> None:
    uses = tuple(
        InstanceUse(f"chat-{profile}-{n}", "chat", profile, 1800.0, dollars)
        for n, (profile, dollars) in enumerate((("h100", 2.0), ("h100", 1.0), ("l4", 0.5)))
    )
    money = build_report(results([answer(1, 0.1, tokens=1000)], instances=uses)).money
    assert money.dollars == pytest.approx(3.5)
    assert money.instance_hours == pytest.approx(1.5)
    assert money.by_profile == {"chat/h100": 3.0, "chat/l4": 0.5}
    assert money.per_million_tokens == pytest.approx(3500)


def test_the_load_over_time_is_thinned() -> None:
    at_s = np.arange(1000.0)
    ones, half = np.ones((1000, 2), np.float32), np.float32(0.5)
    load = LoadSeries(at_s, np.arange(1000), ("a", "b"), ones, ones + ones, ones * half)
    points = build_report(results([answer(1, 0.1)], load=load)).load
    assert len(points.at_s) == len(points.in_flight) <= 240
    assert (points.running[0], points.waiting[0], points.kv_usage[0]) == (2.0, 4.0, 0.5)


def test_nothing_but_failures_is_a_report_too() -> None:
    report = build_report(results([{"outcome": "no_instance", "e2e_s": 0.0}]))
    assert report.overall.latencies.ttft_s is None
    assert report.money.per_million_tokens is None
    console = Console(width=80, record=True, file=StringIO())
    console.print(render(report))
    assert "Not finished: no_instance 1" in console.export_text()


def test_rows_are_one_line_per_request_with_names_written_out() -> None:
    made = results([answer(0.25, 0.1, tenant="a,b"), {"outcome": "error"}])
    file = StringIO()
    write_csv(made, file)
    head, first, second = file.getvalue().splitlines()
    assert head.startswith("arrival_s,ttft_s,e2e_s")
    assert first.startswith("0.000000,0.250000,1.250000,,100,11")
    assert '"a,b"' in first
    assert second.startswith("0.000000,,,")
