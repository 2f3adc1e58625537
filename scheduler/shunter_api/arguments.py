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


def all_given(args: Sequence[str], *prefixes: str) -> tuple[str, ...]:
    """All options whose names begin so, in order, each followed by its values."""
    found: list[str] = []
    takes = False  # values of such an option may follow
    for argument in args:
        name, separator, value = argument.partition("=")
        name = name.replace("_", "-")
        option = argument.startswith("-") and not argument[1:2].isdigit()  # else a value, as -1 is
        if name.startswith(prefixes):
            found += [name, value] if separator else [name]
            takes = not separator
        elif takes and not option:
            found.append(argument)
        else:
            takes = False
    return tuple(found)
