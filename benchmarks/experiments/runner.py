"""Runs cells on all cores: text in, text out, one file per finished cell."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from time import monotonic

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.cells import Cell, Outcome, Store

Work = Callable[[str], str]
"""A cell's text to an outcome's, in a process of its own."""

_LINE_EVERY_S = 30.0


@dataclass
class Run:
    """What came of it; `failed` holds names of cells and why."""

    done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False


def run_cells(cells: Sequence[Cell], store: Store, work: Work, jobs: int, console: Console) -> Run:
    """Runs what `store` does not have. Ctrl-C loses the cells that run and no finished one; a cell
    that fails is reported, and runs again next time."""
    todo = store.missing(cells)
    run = Run()
    if not todo:
        return run
    with _progress(len(todo), console) as tick:
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), _end_on_interrupt)
        try:
            futures = {pool.submit(work, cell.text): cell for cell in todo}
            for future in as_completed(futures):
                _keep(futures[future], future, store, run)
                tick(len(run.failed))
        except KeyboardInterrupt:
            run.interrupted = True
        finally:
            pool.shutdown(cancel_futures=True)
    return run


def _keep(cell: Cell, future: Future[str], store: Store, run: Run) -> None:
    try:
        outcome = msgspec.json.decode(future.result(), type=Outcome)
    except Exception as error:  # the outermost loop: one bad cell must not end the others
        run.failed.append((cell.name, f"{type(error).__name__}: {error}"))
        return
    store.save(cell, outcome)
    run.done += 1


def _end_on_interrupt() -> None:
    """A worker ends at once and silently when the terminal sends Ctrl-C to all."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; lines now and then where there is no terminal."""
    if not console.is_terminal:
        yield _lines(total)
        return
    columns = (
        TextColumn("{task.completed}/{task.total} cells"),
        BarColumn(),
        TextColumn("{task.fields[failed]} failed,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        bar = progress.add_task("", total=total, failed=0)
        yield lambda failed: progress.update(bar, advance=1, failed=failed)


def _lines(total: int) -> Callable[[int], None]:
    began = last = monotonic()
    done = 0

    def tick(failed: int) -> None:
        nonlocal done, last
        done += 1
        now = monotonic()
        if now - last >= _LINE_EVERY_S or done == total:
            last = now
            left_min = (now - began) / done * (total - done) / 60
            text = f"{done}/{total} cells, {failed} failed, {left_min:.0f} min left"
            print(text, file=sys.stderr, flush=True)

    return tick
