"""A move by stop and copy: a pure machine, `step(move, event)`.

For engines that save a sequence's KV cache only while it does not run (llama-server's slots). The
source's stream is closed, its slot saved to a file, the file read into a slot of the destination,
and the request goes on there. From the close on no engine decodes it, and the journal holds all
that the client has: whatever fails, one call from the journal goes on, at the source, which still
has the cache, or at the destination where the source does not answer. Nobody has to be asked who
owns the request: saved and restored caches own nothing, only a call does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from shunter_gateway.moves.rules import UNKNOWN_IDS

Phase = Literal["finding", "choosing", "saving", "restoring", "switched", "failed"]
Call = Literal["find", "choose", "save", "restore"]
Side = Literal["source", "destination"]
NO_SLOT = "no_slot"
ENDING = "finished"
# Refusals after which a replay at the same destination makes no sense.
_NO_REPLAY = (NO_SLOT, ENDING, UNKNOWN_IDS)


@dataclass(frozen=True, slots=True)
class SlotMove:
    phase: Phase = "finding"
    file: bool = False  # one may have been written

    @property
    def over(self) -> bool:
        return self.phase in ("switched", "failed")


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Answered:
    """`refusal` empty: done."""

    call: Call
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Lost, late or broken: it may have been done, and may still be."""

    call: Call


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """Finished, failed or cancelled."""


Event = Answered | NoAnswer | RequestEnded


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Ask:
    """An `Answered` or `NoAnswer` is to come of it."""

    call: Call


@dataclass(frozen=True, slots=True)
class StopSource:
    """Its stream is closed; the journal's owner stays."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The file, if there is one."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The destination goes on from the journal, in the cache that it has read."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """From the journal, without the copy: at the source in its own cache, at the destination with
    a prefill. The owner's epoch is the next one, at the source too."""

    side: Side
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The source goes on. `replayable`: it was not stopped, and the destination has room."""

    reason: str
    replayable: bool


Effect = Ask | StopSource | Remove | Switch | GoOn | Failed
Step = tuple[SlotMove, tuple[Effect, ...]]


def begin() -> Step:
    return SlotMove(), (Ask("find"),)


def step(move: SlotMove, event: Event) -> Step:
    """What does not belong to the present phase is late, and changes nothing, but that a save which
    ends late has left a file."""
    if move.over:
        late = not isinstance(event, RequestEnded) and event.call == "save"
        return move, (Remove(),) if late else ()
    if isinstance(event, RequestEnded):
        return replace(move, phase="failed"), (Remove(),) if move.file else ()
    after = _PHASES.get((move.phase, event.call))
    return after(move, event) if after is not None else (move, ())


def _found(move: SlotMove, event: Answered | NoAnswer) -> Step:
    if why := _why(event):
        return _leave(move, why, replayable=True)
    return replace(move, phase="choosing"), (Ask("choose"),)


def _chosen(move: SlotMove, event: Answered | NoAnswer) -> Step:
    if why := _why(event):
        return _leave(move, why, replayable=not why.endswith(_NO_REPLAY))
    return replace(move, phase="saving", file=True), (StopSource(), Ask("save"))


def _saved(move: SlotMove, event: Answered | NoAnswer) -> Step:
    """A source that says nothing may be gone, or keep the save back for as long as somebody else
    runs in the slot: the client does not wait for either."""
    why = _why(event)
    if isinstance(event, NoAnswer):
        return replace(move, phase="switched"), (Remove(), GoOn("destination", why))
    if why:
        return _go_on(move, why)
    return replace(move, phase="restoring"), (Ask("restore"),)


def _restored(move: SlotMove, event: Answered | NoAnswer) -> Step:
    if why := _why(event):
        return _go_on(move, why)
    return replace(move, phase="switched"), (Remove(), Switch())


def _leave(move: SlotMove, reason: str, replayable: bool) -> Step:
    return replace(move, phase="failed"), (Failed(reason, replayable),)


def _go_on(move: SlotMove, reason: str) -> Step:
    effects = (Remove(), GoOn("source", reason), Failed(reason, replayable=False))
    return replace(move, phase="failed"), effects


def _why(event: Answered | NoAnswer) -> str:
    if isinstance(event, NoAnswer):
        return f"{event.call} not answered"
    return event.refusal and f"{event.call} refused: {event.refusal}"


_PHASES: Mapping[tuple[Phase, Call], Callable[[SlotMove, Answered | NoAnswer], Step]] = {
    ("finding", "find"): _found,
    ("choosing", "choose"): _chosen,
    ("saving", "save"): _saved,
    ("restoring", "restore"): _restored,
}
