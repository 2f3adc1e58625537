import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from experiments.cells import Cell, Outcome, Store, code_version, merge
from experiments.runner import Run, run_cells
from rich.console import Console

from experiment_work import echo

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(file=StringIO())


def cells(log: Path, seeds: int, **scenario: object) -> list[Cell]:
    return [
        Cell("trial", "ours", "low", seed, {"log": str(log), **scenario}) for seed in range(seeds)
    ]


def run(todo: list[Cell], store: Store) -> Run:
    return run_cells(todo, store, echo, 2, QUIET)


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "cells", "v1")
    assert run(cells(log, 3), store).done == 3
    again = run(cells(log, 5), store)
    assert (again.done, again.failed) == (2, [])
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3", "4"]
    outcomes = [store.find(cell) for cell in cells(log, 5)]
    assert [o and o.metrics["seed"] for o in outcomes] == [0, 1, 2, 3, 4]


def test_what_is_alike_under_two_loads_runs_once(tmp_path: Path) -> None:
    store = Store(tmp_path, "v1")
    alike = [Cell("t", "p", load, 0, {"x": 1}) for load in ("low", "high")]
    other = [Cell("t", "p", "low", 1, {"x": 1}), Cell("t", "p", "low", 0, {"x": 1}, "alone")]
    assert len(store.missing([*alike, *other])) == 3
    store.save(alike[0], Outcome({"y": 1.0}))
    assert store.missing(alike) == [] and store.find(alike[1]) == Outcome({"y": 1.0})


def test_other_code_another_seed_or_another_scenario_is_another_cell(tmp_path: Path) -> None:
    store = Store(tmp_path, "v1")
    (one,) = cells(tmp_path / "log", 1)
    store.save(one, Outcome({"x": 1.0}))
    assert store.find(one)
    assert not Store(tmp_path, "v2").find(one)
    assert Store(tmp_path, "v2", any_version=True).find(one) == Outcome({"x": 1.0})
    assert not store.find(cells(tmp_path / "log", 2)[1])
    assert not store.find(cells(tmp_path / "log", 1, rate=3)[0])


def test_half_a_file_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path, "v1")
    (one,) = cells(tmp_path / "log", 1)
    store.save(one, Outcome({"x": 1.0}))
    (file,) = tmp_path.iterdir()
    file.write_text('{"metrics": {"x"')
    assert store.missing([one]) == [one]


def test_a_cell_that_fails_is_named_and_leaves_the_others_alone(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "cells", "v1")
    bad = cells(log, 1, fails=True)
    found = run([*bad, *cells(log, 2)], store)
    assert found.done == 2
    assert found.failed == [("trial low ours seed 0", "RuntimeError: the engine burst")]
    assert store.missing(bad) == bad


INTERRUPTED = """
import sys
from pathlib import Path
from rich.console import Console
from experiment_work import echo
from experiments.cells import Cell, Store
from experiments.runner import run_cells
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    scenario = {"log": str(folder / "log"), "stays": 2}
    cells = [Cell("t", "p", "l", seed, scenario) for seed in range(9)]
    found = run_cells(cells, Store(folder / "cells", "v1"), echo, 1, Console())
    print("interrupted" if found.interrupted else "whole")
"""


def test_an_interrupt_keeps_what_is_finished_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "tests/support")])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        log, folder = tmp_path / "log", tmp_path / "cells"
        while not (log.exists() and "2\n" in log.read_text() and len(list(folder.iterdir())) == 2):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output.strip() == "interrupted"
    assert len(list(folder.iterdir())) == 2


def test_scenarios_merge_by_field() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 3}
    assert merge(base, {"a": {"y": 5}, "b": [9]}) == {"a": {"x": 1, "y": 5}, "b": [9], "c": 3}
    assert base["a"] == {"x": 1, "y": 2}


def test_the_codes_version_follows_its_content(tmp_path: Path) -> None:
    for part in ("scheduler/shunter_api", "scheduler/shunter_scheduler"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "scheduler/shunter_simulator").mkdir()
    (tmp_path / "benchmarks/experiments").mkdir(parents=True)
    for name in ("bounds", "goodput_bound", "measures"):
        (tmp_path / f"benchmarks/experiments/{name}.py").write_text("a = 1")
    first = code_version(tmp_path)
    assert code_version(tmp_path) == first
    (tmp_path / "scheduler/shunter_api/new.py").write_text("")
    assert code_version(tmp_path) != first
    assert len(code_version()) == 12  # of the project itself
