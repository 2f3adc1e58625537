from pathlib import Path

import pytest
from experiments.cells import Cell, Outcome, Store
from experiments.outcomes import Outcomes

P99 = {  # policy -> load -> by seed
    "ours": {"low": [1.0, 2.0, 4.0], "high": [10.0, 10.0, 10.0]},
    "good": {"low": [2.0, 4.0, 8.0], "high": [10.0, 20.0, 40.0]},
    "weak": {"low": [1.0, 3.0, 5.0], "high": [90.0, 90.0, 90.0]},
}


@pytest.fixture
def outcomes() -> Outcomes:
    rows = {
        (policy, load): {s: Outcome({"p99": v, "gain": -v}) for s, v in enumerate(values)}
        for policy, loads in P99.items()
        for load, values in loads.items()
    }
    return Outcomes(rows)


def test_the_strongest_baseline_is_the_one_best_over_all_loads(outcomes: Outcomes) -> None:
    assert outcomes.strongest(["good", "weak"], ["low"], "p99") == "weak"
    assert outcomes.strongest(["good", "weak"], ["low", "high"], "p99") == "good"
    assert outcomes.strongest(["good", "weak"], ["high"], "gain", lower=False) == "good"


def test_a_baseline_that_has_not_run_everywhere_is_no_candidate(outcomes: Outcomes) -> None:
    rows = {k: v for k, v in outcomes.rows.items() if k != ("good", "high")}
    partial = Outcomes(rows)
    assert partial.strongest(["good", "weak"], ["low", "high"], "p99") == "weak"
    with pytest.raises(ValueError, match="none of good has run on low, high"):
        partial.strongest(["good"], ["low", "high"], "p99")


def test_ratios_pair_the_seeds_that_both_have(outcomes: Outcomes) -> None:
    halved = outcomes.ratio("ours", "good", "low", "p99")
    assert (halved.value, halved.low, halved.high, halved.pairs) == pytest.approx(
        (0.5, 0.5, 0.5, 3)
    )
    rows = dict(outcomes.rows)
    rows["good", "low"] = {s: o for s, o in rows["good", "low"].items() if s != 1}
    assert Outcomes(rows).ratio("ours", "good", "low", "p99").pairs == 2


def test_a_mean_over_loads_counts_seeds_not_cells(outcomes: Outcomes) -> None:
    found = outcomes.mean_ratio("ours", "good", ["low", "high"], "p99")
    # per seed: sqrt(1/2 * 1), sqrt(1/2 * 1/2), sqrt(1/2 * 1/4)
    assert found.value == pytest.approx(0.5)
    assert found.pairs == 3 and found.low < 0.5 < found.high
    assert outcomes.mean_difference("ours", "good", ["low"], "p99").value == pytest.approx(-7 / 3)


def test_only_finished_cells_are_in_the_table(tmp_path: Path) -> None:
    store = Store(tmp_path, "v")
    cells = [Cell("x", policy, "low", seed, {"p": policy}) for seed in (0, 1) for policy in "ab"]
    for cell in cells[:3]:
        store.save(cell, Outcome({"y": float(cell.seed)}, note="made up"))
    found = Outcomes.of(cells, store)
    assert (found.policies, found.loads, found.notes) == (["a", "b"], ["low"], ["made up"])
    assert found.seeds("low", "a") == [0, 1]
    assert found.seeds("low", "a", "b") == [0]
