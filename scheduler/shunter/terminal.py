"""Where commands write: one console for answers, one for what goes on meanwhile."""

import shutil
import sys

from rich.console import Console


def out() -> Console:
    """Answers, on stdout. Lines are not wrapped where they go to a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console


def program() -> str:
    """How to call this command again: by its name where that finds it, else by its path."""
    called = sys.argv[0]
    named = called.endswith("/shunter") and shutil.which("shunter") != called
    return called if named else "shunter"


def err() -> Console:
    """Progress and remarks, on stderr."""
    return Console(stderr=True, highlight=False)
