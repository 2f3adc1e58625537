"""`shunter simulate`: what a scenario would do, in virtual time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from shunter.report_options import DataFolder, JsonFile

if TYPE_CHECKING:
    from rich.console import Console

    from shunter_simulator.scenarios import Scenario
    from shunter_simulator.virtual.results import Results
    from shunter_simulator.virtual.world import OnProgress


def simulate(
    scenario: Annotated[Path, typer.Argument(help="A scenario file.", show_default=False)],
    seed: Annotated[
        int | None, typer.Option(min=0, help="In place of the scenario's.", show_default=False)
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Dispatch policy in place of the scenario's.", show_default=False)
    ] = "",
    data: DataFolder = None,
    json_out: JsonFile = None,
    requests_out: Annotated[
        Path | None, typer.Option("--requests", help="Write one line per request, as CSV.")
    ] = None,
    plot_out: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw latencies, load and moves as PNG or SVG."),
    ] = None,
) -> None:
    """Run a scenario in virtual time: the real scheduler over simulated engines.

    Prints latencies, goodput, moves and cost. The same scenario and seed give the same bytes.

    The fields of a scenario: docs/simulate.md; some to begin with: benchmarks/scenarios/samples.

    Example: `shunter simulate drain.yaml --policy round-robin --json out.json --plot out.png`
    """
    from shunter.failure import Failure
    from shunter.terminal import err, out
    from shunter_simulator.reports.request_rows import write_csv
    from shunter_simulator.reports.simulation import build_report
    from shunter_simulator.reports.simulation_table import render
    from shunter_simulator.virtual.world import SimulationStuck
    from shunter_simulator.virtual.world import simulate as run
    from shunter_simulator.workloads import WorkloadError

    chosen = _read(scenario, policy)
    _check_targets((json_out, requests_out, plot_out), plot_out)
    try:
        with _progress(err()) as on_progress:
            results = run(chosen, seed, on_progress=on_progress, data_folder=data)
    except WorkloadError as error:
        raise Failure(f"workload of {scenario}: {error}") from error
    except SimulationStuck as error:
        raise Failure(str(error)) from error
    report = build_report(results)
    out().print(render(report))
    if json_out is not None:
        with _written(json_out) as file:
            file.write(_json(report))
    if requests_out is not None:
        with _written(requests_out) as file:
            write_csv(results, file)
    if plot_out is not None:
        _plot(results, plot_out)


def _read(path: Path, policy: str) -> "Scenario":
    """Ends the command with a line for every problem of the file."""
    from shunter.terminal import out
    from shunter_api.problems import ConfigurationError
    from shunter_simulator.scenarios import load_scenario, with_policy

    try:
        scenario = load_scenario(path)
        return with_policy(scenario, policy) if policy else scenario
    except ConfigurationError as error:
        for problem in error.problems:
            out().print(str(problem), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _check_targets(files: "Iterable[Path | None]", plot: Path | None) -> None:
    """Before a run that may be long."""
    from shunter.failure import Failure
    from shunter_simulator.reports.plots import PlotError, check_plot

    for file in files:
        if file is not None and not file.parent.is_dir():
            raise Failure(f"cannot write {file}: there is no folder {file.parent}")
    try:
        if plot is not None:
            check_plot(plot)
    except PlotError as error:
        raise Failure(str(error), error.next_step) from error


@contextmanager
def _progress(console: "Console") -> "Iterator[OnProgress | None]":
    """A bar over the requests known so far; nothing where `console` is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.completed}/{task.total} done"),
        BarColumn(),
        TextColumn("at {task.fields[at_s]:.0f} s, {task.fields[in_flight]} in flight"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=1, at_s=0.0, in_flight=0)

        def show(ended: int, total: int, in_flight: int, at_s: float) -> None:
            progress.update(bar, completed=ended, total=total, at_s=at_s, in_flight=in_flight)

        yield show


def _json(report: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(report)).decode() + "\n"


@contextmanager
def _written(path: Path) -> "Iterator[IO[str]]":
    from shunter.failure import Failure

    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise Failure(f"cannot write {path}: {error}") from error


def _plot(results: "Results", path: Path) -> None:
    from shunter.failure import Failure
    from shunter_simulator.reports.plots import PlotError
    from shunter_simulator.reports.simulation_plot import save_plot

    try:
        save_plot(results, path)
    except PlotError as error:
        raise Failure(str(error), error.next_step) from error
