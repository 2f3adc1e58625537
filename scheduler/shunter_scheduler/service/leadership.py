"""Whether this scheduler decides.

A standby is warm: it has the configuration and looks at the engines. Requests are the leader's.
"""

from typing import Protocol

from shunter_scheduler.service.errors import Standby


class Leadership(Protocol):
    """`LeaderElection` is one."""

    @property
    def term(self) -> int | None:
        """The term in which this process leads now; None where it does not."""

    @property
    def leader(self) -> str:
        """Who leads, as far as is known."""

    def outrank(self, term: int) -> None:
        """A gateway obeys that term: lead in a higher one, if at all."""


class Alone:
    """The only scheduler: it leads, in no term."""

    term: int | None = 0
    leader = ""

    def outrank(self, term: int) -> None:
        """Gateways obey no term at all just as well."""


def check_leading(leadership: Leadership) -> int:
    """The term. Raises `Standby`."""
    term = leadership.term
    if term is None:
        raise Standby(f"standby; the leader is {leadership.leader or 'not known yet'}")
    return term
