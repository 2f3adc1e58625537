import json

import msgspec
import pytest
from experiments.cells import Cell, Outcome
from experiments.definitions import scenario
from experiments.worker import run_cell

from shunter_api.problems import ConfigurationError


def cell(name: str, **workload: object) -> Cell:
    fields = scenario(name)
    fields["workload"] = {**fields["workload"], **workload}
    return Cell("trial", "ours", "low", 3, fields)


def run(one: Cell) -> Outcome:
    return msgspec.json.decode(run_cell(one.text), type=Outcome)


def test_a_cell_runs_from_its_text_alone_and_twice_the_same() -> None:
    one = cell("llumnix", requests=60, prompts="S", outputs="S")
    first, again = run(one), run(one)
    assert (first.metrics["requests"], first.metrics["lost"]) == (60, 0)
    assert 0 < first.metrics["ttft_p50_s"] <= first.metrics["ttft_p99_s"]
    assert first.metrics == again.metrics and first.curves == again.curves
    assert len(first.curves["ttft_s"]) == len(first.curves["e2e_s"]) > 10


def test_workflows_run_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUNTER_DATA", "/nowhere")
    found = run(cell("hexgen", queries=3, rate=1.0))
    assert found.metrics["workflows_lost"] == 0
    assert found.metrics["requests"] > 3 * 12
    assert found.metrics["workflow_p95_s"] > found.metrics["e2e_mean_s"]
    assert "generated load of its shape" in found.note


def test_a_scenario_that_is_none_is_refused() -> None:
    text = json.dumps({"seed": 0, "scenario": {**scenario("llumnix"), "wishes": 1}})
    with pytest.raises(ConfigurationError, match="wishes"):
        run_cell(text)
