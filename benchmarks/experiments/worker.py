"""One cell in a process of its own: a scenario and a seed in, figures out, both as JSON text."""

import json
import os
from functools import partial
from pathlib import Path
from time import process_time

import msgspec
import yaml

from experiments.bounds import BOUNDS
from experiments.cells import ROOT, Outcome
from experiments.measures import curves, measure
from shunter_simulator.scenarios import Scenario, parse_scenario
from shunter_simulator.virtual.world import simulate
from shunter_simulator.workloads import build_workload, prefix_bound
from shunter_simulator.workloads.prompts import TRACE_BLOCK_TOKENS

_BESIDE_THE_PROJECT = ROOT.parent / "shared" / "data"


def data_folder() -> Path | None:
    """`$SHUNTER_DATA`, else the folder of traces beside the project, where there is one."""
    told = os.environ.get("SHUNTER_DATA")
    folder = Path(told) if told else _BESIDE_THE_PROJECT
    return folder if folder.is_dir() else None


def run_cell(text: str) -> str:
    """Raises what is wrong with the scenario or the run."""
    cell = json.loads(text)
    scenario = parse_scenario(yaml.safe_dump(cell["scenario"]), "scenario", _no_files)
    work = partial(work_out, way=bound) if (bound := cell.get("bound")) else run_scenario
    outcome = work(scenario, cell["seed"], data_folder())
    return msgspec.json.encode(outcome).decode()


def run_scenario(scenario: Scenario, seed: int, folder: Path | None) -> Outcome:
    began_s = process_time()
    workload = build_workload(scenario.workload, seed, folder)
    bound = prefix_bound(workload.arrivals, TRACE_BLOCK_TOKENS)
    results = simulate(scenario, seed, workload)
    figures = measure(results)
    if bound:
        figures["hit_bound"] = bound
    return Outcome(figures, workload.note, process_time() - began_s, curves(results))


def work_out(scenario: Scenario, seed: int, folder: Path | None, way: str) -> Outcome:
    """A bound; nothing is run."""
    began_s = process_time()
    workload = build_workload(scenario.workload, seed, folder)
    figures = BOUNDS[way](scenario, list(workload.arrivals))
    return Outcome(figures, workload.note, process_time() - began_s)


def _no_files(name: str) -> str:
    raise ValueError(f"a cell holds all of its scenario; {name} would be a file")
