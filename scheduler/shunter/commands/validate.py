"""`shunter validate`: what is wrong with these files, and where."""

from pathlib import Path
from typing import Annotated

import typer


def validate(
    files: Annotated[
        list[Path], typer.Argument(help="YAML files, or directories of them.", show_default=False)
    ],
) -> None:
    """Check configuration files together; exit 1 with a line for every problem.

    Example: `shunter validate manifests/quickstart.yaml`
    """
    from shunter.commands.status import counted
    from shunter.config import load
    from shunter.failure import Failure
    from shunter.terminal import out
    from shunter_api.problems import ConfigurationError

    console = out()
    try:
        configuration = load(files)
    except ConfigurationError as error:
        for problem in error.problems:
            console.print(str(problem), markup=False, soft_wrap=True)
        console.print(f"refused: {counted(len(error.problems), 'problem')}")
        raise typer.Exit(1) from None
    if not (configuration.pools or configuration.policies or configuration.instances):
        raise Failure(
            f"there is no resource in {' '.join(map(str, files))}",
            "name YAML files, or directories that hold *.yaml or *.yml",
        )
    console.print(
        f"valid: {len(configuration.pools)} ModelPool, "
        f"{len(configuration.policies)} RoutingPolicy, "
        f"{counted(len(configuration.instances), 'listed instance')}"
    )
