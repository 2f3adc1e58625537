"""Options of the commands that replay load and report on it: `shunter bench` and `simulate`."""

from pathlib import Path
from typing import Annotated

import typer

DataFolder = Annotated[
    Path | None,
    typer.Option(
        envvar="SHUNTER_DATA", help="Folder of trace files.", exists=True, file_okay=False
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")]
