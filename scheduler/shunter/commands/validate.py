"""`shunter validate`: what is wrong with these files, and where."""

from pathlib import Path
from typing import Annotated

import typer


def validate(
    files: Annotated[
        list[Path], typer.Argument(help="YAML files, or directories of them.", show_default=False)
    ],
) -> None:
    """Check configuration files together; exit 1 with a table of every problem.

    Example: `shunter validate manifests/quickstart.yaml`
    """
    from rich.table import Table

    from shunter.config import load
    from shunter.terminal import out
    from shunter_api.problems import ConfigurationError

    console = out()
    try:
        configuration = load(files)
    except ConfigurationError as error:
        table = Table("place", "field", "problem", title="Refused", title_justify="left")
        for problem in error.problems:
            table.add_row(problem.place, problem.field, problem.message)
        console.print(table, markup=False)
        raise typer.Exit(1) from None
    console.print(
        f"valid: {len(configuration.pools)} pools, {len(configuration.policies)} policies, "
        f"{len(configuration.instances)} listed instances"
    )
