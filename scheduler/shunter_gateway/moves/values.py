"""What the machine of rung `kv` hears and does, as values."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "offering",
    "preparing",
    "copying",
    "freezing",
    "draining",  # frozen; the stream has still to bring what was generated before
    "committing",
    "asking",  # whether Commit was done
    "undoing",  # until the source says that it has thawed
    "switched",
    "failed",
]
Call = Literal["offer", "prepare", "pull", "freeze", "commit", "state", "thaw"]
Held = Literal["none", "reserved", "committed", "attached"]
# Refusals that decide how it goes on.
UNKNOWN = "unknown"  # not there, or no longer
NO_MEMORY = "no_memory"


@dataclass(frozen=True, slots=True)
class MoveRules:
    freeze_behind_tokens: int = 32  # Freeze once the destination is at most this far behind
    max_stages: int = 8  # then Freeze all the same
    max_tries: int = 3  # of Commit, of State and of the thaw


@dataclass(frozen=True, slots=True)
class KvMove:
    epoch: int  # of the owner when it began
    phase: Phase = "offering"
    output_tokens: int = 0  # that the source's stream has brought
    frozen_output_tokens: int = 0  # that it will have brought in the end
    tries: int = 1  # of the call that is under way
    reason: str = ""  # why it fails

    @property
    def over(self) -> bool:
        return self.phase in ("switched", "failed")


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Answered:
    """`refusal` empty: done. `output_tokens`: Freeze's, of the whole answer."""

    call: Call
    refusal: str = ""
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Lost, late or broken: it may have been done, and may still be."""

    call: Call


@dataclass(frozen=True, slots=True)
class StageCame:
    stage: int
    behind_tokens: int  # that the source has beyond it


@dataclass(frozen=True, slots=True)
class StateTold:
    """What the destination holds for this move."""

    held: Held


@dataclass(frozen=True, slots=True)
class TokensCame:
    """By the source's stream; of the whole answer."""

    output_tokens: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """The copy, or the stream's rest after Freeze, took too long."""


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """Finished, failed or cancelled: the source's call is closed."""


Event = Answered | NoAnswer | StageCame | StateTold | TokensCame | Overdue | RequestEnded


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this call; an `Answered`, `NoAnswer` or `StateTold` is to come of it."""

    call: Call
    epoch: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Abort, sent once: the lease does the rest."""

    side: Literal["source", "destination"]
    epoch: int


@dataclass(frozen=True, slots=True)
class Switch:
    """The journal's owner becomes the destination, which is called with its lease; Release."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Keep:
    """The journal's owner stays the source, under this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class GiveUpSource:
    """Nobody can tell whether it thawed: its call is ended as failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The source goes on. `replayable`: it was not asked to stop, and the destination has room."""

    reason: str
    replayable: bool


Effect = Ask | Withdraw | Switch | Keep | GiveUpSource | Failed
Step = tuple[KvMove, tuple[Effect, ...]]
