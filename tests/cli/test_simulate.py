"""`shunter simulate` as its users call it."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shunter.__main__ import build_app
from shunter.failure import Failure
from shunter_simulator.scenarios import load_scenario

SCENARIO = """\
name: small
pools:
  - name: chat
    model: llama-3.1-8b
    profiles: [{name: h100, accelerator: h100, costPerHour: "2.50"}]
    slo: {ttft: 500ms, tpot: 50ms}
instances: {chat: {h100: 3}}
policy: {classes: [{name: batch, priority: 1}]}
workload:
  kind: generated
  rate: 10
  duration: 8s
  output: exp/100
  prompt: 100-1000
  labels: [{share: 3, class: batch, tenant: a}, {share: 1, tenant: b}]
faults:
  - {kind: dies, at: 2s, instance: chat-h100-0, backAfter: 2s}
  - {kind: drains, at: 4s, instance: chat-h100-1, deadline: 20s}
"""
SAMPLES = Path(__file__).parents[2] / "benchmarks" / "scenarios" / "samples"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def run(*arguments: str | Path, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shunter", "simulate", *map(str, arguments)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_table_json_requests_and_plot_tell_of_the_same_run(scenario: Path, tmp_path: Path) -> None:
    report, rows, plot = (tmp_path / name for name in ("out.json", "out.csv", "out.png"))
    done = run(scenario, "--json", report, "--requests", rows, "--plot", plot)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(report.read_bytes())
    overall = figures["overall"]
    count = overall["requests"]
    assert 50 < count < 120
    assert overall["finished"] == count
    assert f"small, policy predicted-cost, seed 0: {count} of {count} requests" in done.stdout
    mean_ms = re.search(r"TTFT +│ +([0-9.]+)", done.stdout)
    assert mean_ms is not None
    assert float(mean_ms[1]) == pytest.approx(overall["latencies"]["ttft_s"]["mean"] * 1e3, abs=0.1)
    assert "fault: dies 1, fault: drains 1" in done.stdout
    assert set(figures["classes"]) == {"batch", "standard"}
    assert sum(f["requests"] for f in figures["tenants"].values()) == count
    moved = [move for move in figures["moves"] if not move["why_not"]]
    assert sum(move["count"] for move in moved) == overall["moves"] > 0
    with rows.open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == count
    assert {line["outcome"] for line in lines} == {"finished"}
    assert sum(int(line["output_tokens"]) for line in lines) == overall["output_tokens"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    scenario: Path, tmp_path: Path
) -> None:
    written = []
    for number, (seed, hash_seed) in enumerate(((0, 1), (0, 2), (1, 1))):
        path = tmp_path / f"{number}.json"
        assert run(scenario, "--seed", str(seed), "--json", path, hash_seed=hash_seed).stderr == ""
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_every_problem_of_a_scenario_with_its_place(scenario: Path) -> None:
    scenario.write_text(SCENARIO.replace("rate:", "rat:").replace("h100: 3", "h10: 3"))
    result = CliRunner().invoke(build_app(), ["simulate", str(scenario)])
    assert result.exit_code == 1
    assert f"{scenario}:11: workload.rat: unknown field; did you mean rate?" in result.stdout


def test_another_policy_takes_the_place_of_the_scenarios(scenario: Path) -> None:
    arguments = ["simulate", str(scenario), "--policy", "round-robin"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0
    assert "policy round-robin" in result.stdout
    refused = CliRunner().invoke(build_app(), [*arguments[:-1], "fastest"])
    assert refused.exit_code == 1
    assert "--policy" in refused.stdout


def test_a_file_that_cannot_be_written_is_a_failure(scenario: Path, tmp_path: Path) -> None:
    arguments = ["simulate", str(scenario), "--json", str(tmp_path / "no" / "out.json")]
    failure = CliRunner().invoke(build_app(), arguments).exception
    assert isinstance(failure, Failure)
    assert "cannot write" in str(failure)
    assert "no folder" in str(failure)


def test_what_cannot_be_drawn_is_said_before_the_run(scenario: Path, tmp_path: Path) -> None:
    arguments = ["simulate", str(scenario), "--plot", str(tmp_path / "out.doc")]
    result = CliRunner().invoke(build_app(), arguments)
    assert isinstance(result.exception, Failure)
    assert "ends in .png or .svg" in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_scenarios_that_are_shipped_can_be_read(path: Path) -> None:
    assert load_scenario(path).name == path.stem
