"""Model files before the engines start: fetched once, with a progress bar."""

import importlib.util
import os
from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from shunter.failure import Failure
from shunter.up.launch import llama_model
from shunter.up.llama import llama_server
from shunter.up.plan import EnginePlan
from shunter_text.model_files import FetchOptions, ModelFileError, model_file
from shunter_text.model_files import Progress as ReportProgress


def fetch_weights(plans: Iterable[EnginePlan], console: Console) -> dict[str, str]:
    """Blocks. Returns the pools that cannot be served on this machine, each with the reason."""
    real = (plan for plan in plans if plan.engine_type != "simulated")
    wanted = {(plan.pool, plan.engine_type, plan.source): plan for plan in real}.values()
    absent: dict[str, str] = {}
    if not wanted:
        return absent
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        progress = _reporter(bars, console)
        for plan in wanted:
            environment = {**os.environ, **dict(plan.env)}
            try:
                _fetch(plan, FetchOptions.from_environ(environment, progress))
            except (ModelFileError, Failure) as error:
                absent[plan.pool] = _reason(error)
    return absent


def _fetch(plan: EnginePlan, options: FetchOptions) -> None:
    """Raises `ModelFileError` and `Failure`."""
    if plan.engine_type == "llamacpp":
        llama_model(plan, llama_server(), options)
    elif plan.engine_type == "numpy":
        if importlib.util.find_spec("gguf") is None:
            raise Failure(
                "the NumPy engine is not installed",
                "`pip install 'shunter[numpy-engine]'` brings it",
            )
        model_file(plan.source, options)


def _reason(error: ModelFileError | Failure) -> str:
    next_step = error.next_step if isinstance(error, Failure) else ""
    return f"{error}; {next_step}" if next_step else str(error)


def _reporter(bars: Progress, console: Console) -> ReportProgress:
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
            if not console.is_terminal:
                console.print(what)
        bars.update(tasks[what], completed=done, total=total)

    return progress
