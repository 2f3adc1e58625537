"""The `shunter` command: one file per sub-command, each imports what it needs when it runs."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from shunter.bench.command import bench
from shunter.commands.cost import cost
from shunter.commands.demo import demo
from shunter.commands.doctor import doctor
from shunter.commands.drain import drain, undrain
from shunter.commands.engine import engine
from shunter.commands.explain import explain
from shunter.commands.fetch import fetch
from shunter.commands.gateway import gateway
from shunter.commands.hook import hook
from shunter.commands.operator import operator
from shunter.commands.scheduler import scheduler
from shunter.commands.simulate import simulate
from shunter.commands.status import status, top
from shunter.commands.up import up
from shunter.commands.validate import validate
from shunter.failure import Failure

OPERATE, PROCESSES = "Operate", "Processes"


def build_app() -> typer.Typer:
    """The command tree, in the order in which `--help` shows it."""
    app = typer.Typer(
        name="shunter",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command()(up)
    app.command()(validate)
    app.command()(bench)
    app.command()(simulate)
    app.command()(cost)
    app.add_typer(demo)
    for operate in (status, top, explain, drain, undrain, doctor):
        app.command(rich_help_panel=OPERATE)(operate)
    for process in (engine, scheduler, gateway, operator, fetch):
        app.command(rich_help_panel=PROCESSES)(process)
    app.add_typer(hook)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"shunter {version('shunter')}\n")
        raise typer.Exit


def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Serve many language models on mixed GPUs as one OpenAI-compatible service.

    Start with `shunter up`: it serves two models on simulated GPUs on this machine.
    """


def main() -> None:
    try:
        build_app()(prog_name="shunter")
    except Failure as failure:
        sys.stderr.write(f"error: {failure}\n")
        if failure.next_step:
            sys.stderr.write(f"next: {failure.next_step}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
