"""A progress bar while a replay goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shunter.bench.records import Tally

_INTERVAL_S = 0.25


@asynccontextmanager
async def show_progress(tally: Tally, console: Console) -> AsyncIterator[None]:
    """Nothing is shown where `console` is no terminal."""
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.completed}/{task.total} done"),
        BarColumn(),
        TextColumn("{task.fields[in_flight]} in flight, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("", total=tally.total, in_flight=0, failed=0)
        watcher = asyncio.create_task(_watch(tally, progress, bar))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            _show(tally, progress, bar)


async def _watch(tally: Tally, progress: Progress, bar: TaskID) -> None:
    while True:
        _show(tally, progress, bar)
        await asyncio.sleep(_INTERVAL_S)


def _show(tally: Tally, progress: Progress, bar: TaskID) -> None:
    progress.update(
        bar,
        completed=tally.finished,
        in_flight=tally.in_flight,
        failed=tally.failed,
        refresh=True,
    )
