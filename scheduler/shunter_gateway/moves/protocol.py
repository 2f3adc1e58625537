"""The gateway's side of a move by rung `kv`: a pure machine, `step(move, event)`.

The gateway leads, since its journal says who owns the request. Until Freeze was sent everything can
be left to the leases; from then on the source counts as frozen, and a move that fails has to thaw
it, under an epoch that makes everything older void: `epoch` owns before the move, `epoch + 1` is
the destination's, `epoch + 2` the thawed source's. The destination decodes only once the generate
call comes that brings its lease, so an unanswered Commit may be asked after, and in the end decided
against, without two engines ever owning the request (docs/adr/0013).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from shunter_gateway.moves.values import (
    NO_MEMORY,
    UNKNOWN,
    Answered,
    Ask,
    Call,
    Effect,
    Event,
    Failed,
    GiveUpSource,
    Held,
    Keep,
    KvMove,
    MoveRules,
    NoAnswer,
    Overdue,
    Phase,
    RequestEnded,
    StageCame,
    StateTold,
    Step,
    Switch,
    TokensCame,
    Withdraw,
)


def begin(epoch: int, output_tokens: int) -> Step:
    """`epoch` of the present owner; `output_tokens` that its stream has brought."""
    return KvMove(epoch, output_tokens=output_tokens), (Ask("offer", epoch),)


def step(move: KvMove, event: Event, rules: MoveRules) -> Step:
    """What does not belong to the present phase is late, and changes nothing."""
    if move.over:
        return move, ()
    if isinstance(event, RequestEnded):
        return _ended(move)
    if isinstance(event, TokensCame):
        move = replace(move, output_tokens=event.output_tokens)
        return _drained(move) if move.phase == "draining" else (move, ())
    return _PHASES[move.phase](move, event, rules)


def _ended(move: KvMove) -> Step:
    """Closing its call frees the source, whatever its state; the move itself ends there too."""
    epoch = move.epoch + 2
    ended = replace(move, phase="failed", reason=move.reason or "finished")
    return ended, (Withdraw("source", epoch), *_forsake(move, epoch))


def _forsake(move: KvMove, epoch: int) -> tuple[Effect, ...]:
    return () if move.phase == "offering" else (Withdraw("destination", epoch),)


def _leave(move: KvMove, reason: str) -> Step:
    """Before Freeze: nobody has to confirm anything. At the destination under the next epoch, so
    that a Prepare which this overtakes is refused; the source keeps its own."""
    failed = Failed(reason, replayable=not reason.endswith(NO_MEMORY))
    sides = (Withdraw("source", move.epoch), *_forsake(move, move.epoch + 1))
    return replace(move, phase="failed", reason=reason), (*sides, failed)


def _undo(move: KvMove, reason: str) -> Step:
    """After Freeze, or where it may have been done."""
    epoch = move.epoch + 2
    effects = (Keep(epoch), Ask("thaw", epoch), Withdraw("destination", epoch))
    return replace(move, phase="undoing", tries=1, reason=reason), effects


def _why(event: Event) -> str:
    """Why the move cannot go on; empty where `event` is not such a reason."""
    if isinstance(event, Answered):
        return event.refusal and f"{event.call} refused: {event.refusal}"
    if isinstance(event, NoAnswer):
        return f"{event.call} not answered"
    return "took too long" if isinstance(event, Overdue) else ""


def _is_of(event: Event, *calls: Call) -> bool:
    """Whether it is an answer to one of these calls, or none that is to one at all."""
    return not isinstance(event, Answered | NoAnswer) or event.call in calls


def _offering(move: KvMove, event: Event, rules: MoveRules) -> Step:
    if not _is_of(event, "offer"):
        return move, ()
    if why := _why(event):
        return _leave(move, why)
    if not isinstance(event, Answered):
        return move, ()
    return replace(move, phase="preparing"), (Ask("prepare", move.epoch),)


def _preparing(move: KvMove, event: Event, rules: MoveRules) -> Step:
    if not _is_of(event, "prepare"):
        return move, ()
    if why := _why(event):
        return _leave(move, why)
    if not isinstance(event, Answered):
        return move, ()
    return replace(move, phase="copying"), (Ask("pull", move.epoch),)


def _copying(move: KvMove, event: Event, rules: MoveRules) -> Step:
    if not _is_of(event, "pull"):
        return move, ()
    if why := _why(event):
        return _leave(move, why)
    if not isinstance(event, StageCame):
        return move, ()
    if event.behind_tokens > rules.freeze_behind_tokens and event.stage < rules.max_stages:
        return move, ()
    return replace(move, phase="freezing"), (Ask("freeze", move.epoch),)


def _freezing(move: KvMove, event: Event, rules: MoveRules) -> Step:
    """Even a refused Freeze is undone: a copy of it may come late, and be obeyed."""
    if not _is_of(event, "freeze", "pull"):
        return move, ()
    if why := _why(event):
        return _undo(move, why)
    if not isinstance(event, Answered) or event.call != "freeze":
        return move, ()
    return _drained(replace(move, phase="draining", frozen_output_tokens=event.output_tokens))


def _drained(move: KvMove) -> Step:
    """What the source generated has to be in the journal before another engine goes on."""
    if move.output_tokens < move.frozen_output_tokens:
        return move, ()
    return replace(move, phase="committing", tries=1), (Ask("commit", move.epoch + 1),)


def _draining(move: KvMove, event: Event, rules: MoveRules) -> Step:
    why = _why(event) if _is_of(event, "pull") else ""
    return _undo(move, why) if why else (move, ())


def _committing(move: KvMove, event: Event, rules: MoveRules) -> Step:
    if not isinstance(event, Answered | NoAnswer) or event.call != "commit":
        return move, ()
    if isinstance(event, NoAnswer):
        return replace(move, phase="asking"), (Ask("state", move.epoch + 1),)
    return _undo(move, _why(event)) if event.refusal else _switch(move)


def _switch(move: KvMove) -> Step:
    return replace(move, phase="switched"), (Switch(move.epoch + 1),)


def _asking(move: KvMove, event: Event, rules: MoveRules) -> Step:
    """The destination's word decides. Without one the journal does: the source keeps the request,
    and what the destination may hold ends with its lease."""
    if isinstance(event, StateTold):
        return _told(move, event.held, rules)
    if not isinstance(event, NoAnswer) or event.call != "state":
        return move, ()
    if move.tries >= rules.max_tries:
        return _undo(move, "commit not answered")
    return replace(move, tries=move.tries + 1), (Ask("state", move.epoch + 1),)


def _told(move: KvMove, held: Held, rules: MoveRules) -> Step:
    if held == "committed":
        return _switch(move)
    if held != "reserved" or move.tries >= rules.max_tries:
        return _undo(move, "commit not done")
    again = replace(move, phase="committing", tries=move.tries + 1)
    return again, (Ask("commit", move.epoch + 1),)


def _undoing(move: KvMove, event: Event, rules: MoveRules) -> Step:
    """An unknown move is no longer frozen; where the request is gone with it its stream breaks,
    which the request's recovery sees."""
    if not isinstance(event, Answered | NoAnswer) or event.call != "thaw":
        return move, ()
    if isinstance(event, Answered) and event.refusal in ("", UNKNOWN):
        return replace(move, phase="failed"), (Failed(move.reason, replayable=False),)
    if isinstance(event, Answered) or move.tries >= rules.max_tries:
        return replace(move, phase="failed"), (GiveUpSource(move.reason),)
    return replace(move, tries=move.tries + 1), (Ask("thaw", move.epoch + 2),)


def _over(move: KvMove, event: Event, rules: MoveRules) -> Step:
    return move, ()


_PHASES: Mapping[Phase, Callable[[KvMove, Event, MoveRules], Step]] = {
    "offering": _offering,
    "preparing": _preparing,
    "copying": _copying,
    "freezing": _freezing,
    "draining": _draining,
    "committing": _committing,
    "asking": _asking,
    "undoing": _undoing,
    "switched": _over,
    "failed": _over,
}
