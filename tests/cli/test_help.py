"""The command line explains itself: every command has help with an example."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from shunter.__main__ import build_app

COMMANDS = (
    "up", "validate", "bench", "cost", "status", "top", "explain", "drain", "undrain",
    "doctor", "engine", "scheduler", "gateway", "operator", "fetch", "demo failover",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(build_app(), [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: shunter {command}" in " ".join(result.output.split())


def test_version() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "shunter", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("shunter 0.")


def test_every_command_is_listed_and_none_is_hidden() -> None:
    listed = typer.main.get_command(build_app())
    names = set(listed.commands)  # type: ignore[attr-defined]
    assert {command.split()[0] for command in COMMANDS} <= names


def test_help_does_not_load_what_only_commands_need() -> None:
    code = (
        "import sys, shunter.__main__ as m; m.build_app();"
        "print([n for n in ('grpc', 'numpy', 'aiohttp', 'pydantic', 'tokenizers', 'shunter_api')"
        " if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_mistyped_command_is_answered() -> None:
    result = CliRunner().invoke(build_app(), ["drian"])
    assert result.exit_code == 2
    assert "drain" in result.output
