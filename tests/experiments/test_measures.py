from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from experiments.fairness import service_gap
from experiments.measures import CURVE_SHARES, curves, measure

from shunter_simulator.virtual.columns import FIELDS, NAMED, Names
from shunter_simulator.virtual.results import InstanceUse, LoadSeries, MoveRecord, Results, Targets

Row = Mapping[str, float | str]


def results(
    rows: Sequence[Row],
    *,
    warmup_s: float = 0.0,
    targets: Mapping[tuple[str, str], Targets] | None = None,
    moves: Sequence[MoveRecord] = (),
    instances: Sequence[InstanceUse] = (),
) -> Results:
    names = {name: Names() for name in NAMED}
    columns = {}
    for field, (kind, missing) in FIELDS.items():
        values = [{"outcome": "finished", **row}.get(field, missing) for row in rows]
        if field in NAMED:
            values = [names[field].code(str(v) if v else "") for v in values]
        columns[field] = np.array(values, dtype=kind)
    empty = np.zeros((0, 0), dtype=np.float32)
    nothing = np.zeros(0)
    load = LoadSeries(nothing, nothing.astype(np.int64), (), empty, empty, empty)
    ends = columns["arrival_s"] + columns["e2e_s"]
    return Results(
        scenario="s",
        seed=0,
        policy="p",
        warmup_s=warmup_s,
        duration_s=float(np.nanmax(ends)),
        columns=columns,
        names={name: table.texts for name, table in names.items()},
        targets=targets or {},
        moves=tuple(moves),
        load=load,
        instances=tuple(instances),
        counters={},
    )


def row(at: float, ttft: float, e2e: float, tokens: int = 11, **more: float | str) -> Row:
    base = {"arrival_s": at, "ttft_s": ttft, "e2e_s": e2e, "output_tokens": tokens}
    return {**base, "prompt_tokens": 100, "pool": "chat", **more}


def test_decode_latency_is_per_token_after_the_first_and_loss_over_all() -> None:
    rows = [row(0, 1, 3), row(1, 2, 8, preemption_loss_s=4.0, preemptions=2), row(2, 5, 5, 1)]
    found = measure(results(rows))
    assert found["ttft_mean_s"] == pytest.approx(8 / 3)
    assert found["decode_mean_s"] == pytest.approx((0.2 + 0.6) / 2)  # one token has no gaps
    assert found["preemption_loss_s"] == pytest.approx(4 / 3)
    assert found["preemptions"] == 2


def test_instances_are_counted_for_as_long_as_they_are_there() -> None:
    uses = [InstanceUse(f"i{n}", "chat", "h100", seconds, 0.5) for n, seconds in enumerate((8, 6))]
    found = measure(results([row(0, 1, 3), row(1, 1, 7)], instances=uses))
    assert (found["instances_mean"], found["dollars"]) == (14 / 8, 1.0)


def test_what_arrives_while_warming_up_is_left_out_and_what_is_lost_counts() -> None:
    rows = [row(0, 50, 90), row(10, 1, 2), row(14, 1, 2, outcome="failed")]
    found = measure(results(rows, warmup_s=5))
    assert (found["requests"], found["lost"], found["ttft_p99_s"]) == (2, 1, 1.0)


def test_attainment_asks_for_every_target_of_the_class_and_counts_the_lost() -> None:
    targets = {("chat", "fast"): Targets(1.0, 0.1), ("chat", "slow"): Targets(None, None)}
    rows = [
        row(0, 0.5, 1.0, slo_class="fast"),
        row(2, 1.5, 2.0, slo_class="fast"),  # TTFT
        row(4, 0.5, 9.0, slo_class="fast"),  # TPOT
        row(6, 0.5, 1.0, slo_class="fast", outcome="failed"),
        row(10, 50, 90, slo_class="slow"),
    ]
    found = measure(results(rows, targets=targets))
    assert found["fast.attainment"] == 0.25
    assert found["slow.attainment"] == 1.0
    assert found["attainment"] == pytest.approx(2 / 5)
    assert found["goodput_per_s"] == pytest.approx(2 / 10)


def test_the_share_of_cached_prompt_tokens() -> None:
    found = measure(results([row(0, 1, 2, cached_tokens=50), row(0, 1, 2)]))
    assert found["hit_share"] == 0.25


def test_a_workflow_lasts_from_its_first_arrival_to_its_last_end() -> None:
    rows = [
        row(10, 1, 2, workflow="a"),
        row(12, 1, 5, workflow="a"),
        row(12, 1, 9, workflow="a"),
        row(20, 1, 4, workflow="b"),
        row(30, 1, 4, workflow="c", outcome="failed"),
    ]
    found = measure(results(rows))
    assert found["workflow_mean_s"] == pytest.approx((11 + 4) / 2)
    assert found["workflows_lost"] == 1


def test_moves_that_were_given_up_are_counted_apart() -> None:
    moves = [
        MoveRecord(1.0, 0, "a", "b", "kv", "load", True, stall_s=0.02),
        MoveRecord(1.0, 0, "a", "b", "kv", "load", False, "finished"),
    ]
    found = measure(results([row(0, 1, 2)], moves=moves))
    assert (found["moves"], found["moves_given_up"], found["stall_p99_s"]) == (1, 1, 0.02)


def test_curves_are_quantiles_of_what_finished() -> None:
    found = curves(results([row(i, i / 100, 5) for i in range(101)]))
    assert found["ttft_s"] == pytest.approx(CURVE_SHARES.tolist())


def queue(tenant: str, firsts: Sequence[float], prompt: int = 100) -> list[Row]:
    """All ask at 0 and are served one after the other."""
    return [row(0, at, at + 1, 0, tenant=tenant, prompt_tokens=prompt) for at in firsts]


def gap(rows: Sequence[Row], tenants: Sequence[str]) -> float:
    return service_gap(results(rows), np.ones(len(rows), dtype=bool), tenants)


def test_tenants_that_take_turns_stay_within_a_request_of_one_another() -> None:
    rows = queue("a", range(1, 40, 2)) + queue("b", range(2, 41, 2))
    assert gap(rows, ["a", "b"]) == 100


def test_a_tenant_that_goes_first_is_as_far_ahead_as_it_was_served_meanwhile() -> None:
    rows = queue("a", range(1, 21)) + queue("b", range(21, 41))
    assert gap(rows, ["a", "b"]) == 1900  # its last request no longer waits


def test_service_counts_only_while_both_wait() -> None:
    rows = [*queue("a", range(1, 21)), row(30, 1, 2, 0, tenant="b")]
    assert gap(rows, ["a", "b"]) == 0


def test_the_gap_is_that_of_tenants_of_one_class() -> None:
    low = [{**one, "slo_class": "low"} for one in queue("a", range(1, 21))]
    high = [{**one, "slo_class": "high"} for one in queue("b", range(21, 41))]
    both = [{**one, "slo_class": "high"} for one in queue("a", range(1, 3))]
    found = measure(results([*low, *high, *both]))
    assert "low.service_gap_tokens" not in found
    assert found["high.service_gap_tokens"] == 100


def test_answers_count_as_they_come() -> None:
    long = row(0, 2, 12, 1000, tenant="a", prompt_tokens=0)  # 100 tokens a second from 2 on
    rows = [long, row(0, 7, 8, 0, tenant="b"), row(0, 9, 9, 0, tenant="a", prompt_tokens=0)]
    assert gap(rows, ["a", "b"]) == pytest.approx(450)  # at 6.5 b still waits
