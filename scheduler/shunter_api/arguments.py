"""Options of an engine's command line, as `engine.args` has them."""

from collections.abc import Sequence


def last_value(args: Sequence[str], *names: str) -> str:
    """Of `NAME VALUE` or `NAME=VALUE`, the last one of any of these names, which may be written
    with underscores; empty where there is none."""
    found = ""
    for place, argument in enumerate(args):
        name, separator, value = argument.partition("=")
        if name.replace("_", "-") in names:
            found = value if separator else "".join(args[place + 1 : place + 2])
    return found
