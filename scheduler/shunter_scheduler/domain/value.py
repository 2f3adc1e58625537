"""The base of what is made for every request: events, decisions, the request itself."""

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """A frozen record that is made in a tenth of a frozen dataclass's time (0.06 µs against 0.8 µs
    for eight fields). The garbage collector need not look at it: no value is part of a cycle."""
