"""Where commands write: one console for answers, one for what goes on meanwhile."""

from rich.console import Console


def out() -> Console:
    """Answers, on stdout. Lines are not wrapped where they go to a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console


def err() -> Console:
    """Progress and remarks, on stderr."""
    return Console(stderr=True, highlight=False)
