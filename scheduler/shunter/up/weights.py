"""Model files before the engines start: fetched once, with a progress bar."""

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


def fetch_weights(plans: Iterable[EnginePlan], console: Console) -> None:
    """Blocks. Raises `Failure`."""
    plans = [plan for plan in plans if plan.engine_type in ("numpy", "llamacpp")]
    wanted = {(plan.engine_type, plan.source): plan for plan in plans}.values()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
                if not console.is_terminal:
                    console.print(what)
            bars.update(tasks[what], completed=done, total=total)

        for plan in wanted:
            environment = {**os.environ, **dict(plan.env)}
            options = FetchOptions.from_environ(environment, progress)
            try:
                if plan.engine_type == "llamacpp":
                    llama_model(plan, llama_server(), options)
                else:
                    model_file(plan.source, options)
            except ModelFileError as error:
                raise Failure(str(error)) from error
