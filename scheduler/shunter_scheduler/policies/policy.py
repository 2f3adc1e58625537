"""The shape of a dispatch policy."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from shunter_scheduler.policies.columns import Ask, InstanceColumns
from shunter_scheduler.policies.rows import InstanceRow

Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """`score` fills `columns.score`, lowest wins, equal scores go to the lower slot.

    `columns.excluded` says who cannot win whatever the score; infinity says the policy did not
    consider an instance. `terms` names the parts of one instance's score: their sum is the score.
    `cached_tokens` (in `columns` and as an argument) is the prefix hit there.
    """

    name: str
    score: Callable[[InstanceColumns, Ask, Generator], None]
    terms: Callable[[InstanceRow, Ask, int], Terms]
    uses_prefix: bool = False
