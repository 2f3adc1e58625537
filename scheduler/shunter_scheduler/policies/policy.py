"""The shape of a dispatch policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.rows import InstanceRow

Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """`score` fills `columns.score`, lowest wins, equal scores go to the lower slot.

    `columns.excluded` says who cannot win whatever the score; infinity says the policy did not
    consider an instance. An explanation names the terms whose sum is an instance's score: either
    `terms` makes them from the row and the prefix hit there, or `score` has left them in
    `columns.parts`, in the order of `parts`. `unit` is what scores and terms are in.
    """

    name: str
    score: Callable[[InstanceColumns, Ask, Generator], None]
    terms: Callable[[InstanceRow, Ask, int], Terms] | None = None
    parts: tuple[str, ...] = ()
    unit: str = "s"
    uses_prefix: bool = False
    uses_view: bool = False
    tunes_alpha: bool = False

    def named(
        self, row: InstanceRow, ask: Ask, cached_tokens: int, parts: Sequence[float]
    ) -> Terms:
        """The terms of one instance's score."""
        if self.terms is None:
            return tuple(zip(self.parts, parts, strict=False))
        return self.terms(row, ask, cached_tokens)
