"""The engines' side of a move as `moves.proto` promises it, for the model of `kv_move_model`."""

from typing import NamedTuple


class Message(NamedTuple):
    to: str  # gateway, source, destination
    kind: str
    move: int  # number of the move, which has a destination of its own
    number: int = 0  # epoch, or tokens
    text: str = ""  # refusal, or what is held


class Faults(NamedTuple):
    """Promises that are broken."""

    late_commit: bool = False  # decodes at Commit, without waiting for the generate call
    endless_lease: bool = False  # of the destination
    double_selection: bool = False  # the source lets a request go in two moves at once
    old_epoch: bool = False  # the source does not look at epochs
    lost_tail: bool = False  # commits, and goes on, without what came after the last stage
    thaws_by_itself: bool = False  # the source, when its lease ends
    no_fence: bool = False  # the destination forgets an Abort of what it does not know


class Source(NamedTuple):
    phase: str = "decoding"  # decoding, offered, frozen, finished, gone
    tokens: int = 1
    move: int = -1
    epoch: int = 1  # the highest that was heard of
    frozen_epoch: int = 0  # of the Freeze that was obeyed

    @property
    def decodes(self) -> bool:
        return self.phase in ("decoding", "offered")

    @property
    def holds(self) -> bool:
        return self.decodes or self.phase == "frozen"


class Destination(NamedTuple):
    phase: str = "none"  # none, reserved, committed, decoding, finished, gone
    kv: int = 0  # tokens of which something came
    complete: bool = False
    pulling: bool = False
    epoch: int = 1
    tokens: int = 0
    wrong: bool = False  # goes on from another text than the client has

    @property
    def holds(self) -> bool:
        return self.phase in ("reserved", "committed", "decoding")


def at_source(source: Source, message: Message, faults: Faults) -> tuple[Source, Message | None]:
    kind, move, epoch = message.kind, message.move, message.number
    if kind == "close":
        return (source._replace(phase="gone") if source.holds else source), None
    if not source.holds:
        return source, _reply(message, "unknown")
    if epoch < source.epoch and not faults.old_epoch:
        return source, _reply(message, "stale epoch")
    mine = source.move == move or faults.double_selection
    if kind == "offer":
        if source.phase == "frozen" and mine:
            return source, _reply(message)  # again, and without effect
        if source.phase == "frozen" or (source.phase == "offered" and not mine):
            return source, _reply(message, "busy")
        return source._replace(phase="offered", move=move, epoch=epoch), _reply(message)
    if kind in ("thaw", "abort"):
        after = source._replace(epoch=max(epoch, source.epoch))
        if not mine:
            return after, _reply(message, "unknown")
        return after._replace(phase="decoding", move=-1), _reply(message)
    if not mine or source.phase == "decoding":
        return source, _reply(message, "unknown")
    if kind == "freeze":
        frozen = source._replace(phase="frozen", move=move, frozen_epoch=epoch)
        return frozen, _reply(message, number=source.tokens)
    assert kind == "release"
    return source._replace(phase="gone"), None


def at_destination(
    one: Destination, message: Message, faults: Faults
) -> tuple[Destination, Message | None]:
    kind = message.kind
    if one.phase == "gone":
        return one, None
    if kind == "close":
        return (one._replace(phase="gone") if one.phase == "decoding" else one), None
    if kind == "leave":
        held = one.pulling and one.phase in ("reserved", "committed")
        return (Destination(epoch=one.epoch) if held else one), None
    if kind == "generate":
        return _generate(one, message.number), None
    if kind == "state":
        return one, _reply(message, _held(one.phase))
    if message.number < one.epoch and kind != "pull":
        return one, _reply(message, "stale epoch")
    if kind == "prepare":
        if one.phase != "none":
            return one, _reply(message, "" if one.phase == "reserved" else "unknown")
        return one._replace(phase="reserved", epoch=message.number), _reply(message)
    if kind == "abort":
        if one.phase in ("reserved", "committed"):
            return Destination(epoch=message.number), None
        return (one if faults.no_fence else one._replace(epoch=message.number)), None
    if kind == "pull":
        return one._replace(pulling=one.pulling or one.phase == "reserved"), None
    assert kind == "commit"
    return _commit(one, message, faults)


def _commit(
    one: Destination, message: Message, faults: Faults
) -> tuple[Destination, Message | None]:
    if one.phase == "committed":
        return one, _reply(message)
    if one.phase != "reserved":
        return one, _reply(message, "unknown")
    if not one.complete and not faults.lost_tail:
        return one, _reply(message, "incomplete")
    after = one._replace(phase="committed", epoch=message.number)
    if faults.late_commit:
        after = after._replace(phase="decoding", tokens=one.kv)
    return after, _reply(message)


def _generate(one: Destination, tokens: int) -> Destination:
    """From the KV cache that came, or else by computing it."""
    if one.phase == "decoding":
        return one
    wrong = one.phase == "committed" and (not one.complete or one.kv != tokens)
    return Destination("decoding", epoch=one.epoch, tokens=tokens, wrong=wrong)


def _held(phase: str) -> str:
    return "attached" if phase in ("decoding", "finished") else phase


def _reply(message: Message, refusal: str = "", number: int = 0) -> Message | None:
    """To calls that nobody waits for none is sent."""
    if message.kind in ("abort", "release", "pull"):
        return None
    return Message("gateway", message.kind, message.move, number, refusal)
