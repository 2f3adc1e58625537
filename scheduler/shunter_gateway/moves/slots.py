"""The rung `kv` between llama-servers: drives the machine of `stop_copy` over their slots."""

from dataclasses import dataclass
from functools import partial

from shunter_gateway.moves import stop_copy
from shunter_gateway.moves.ports import RunningCall, SlotHost, SlotReply, SlotServers, StoppedSlot
from shunter_gateway.moves.stop_copy import Answered, Call, Effect, Event, NoAnswer
from shunter_gateway.topology import Instance

FILE_PREFIX, FILE_SUFFIX = "shunter-", ".slot"


@dataclass(frozen=True, slots=True)
class SlotEnds:
    """One move's names and places."""

    source: Instance
    destination: Instance
    move_id: str
    epoch: int  # of the present owner
    call: RunningCall  # at the source

    @property
    def file(self) -> str:
        return f"{FILE_PREFIX}{self.move_id}{FILE_SUFFIX}"


class SlotTransfer:
    """One move, from the command to the switch or the source's going on."""

    def __init__(self, host: SlotHost, ends: SlotEnds, servers: SlotServers) -> None:
        self._host = host
        self._ends = ends
        self._servers = servers
        self._move = stop_copy.SlotMove()
        self._source_slot = -1
        self._slot = -1  # the destination's
        self.copied_bytes = 0

    def start(self) -> None:
        self._move, effects = stop_copy.begin()
        self._obey(effects)

    def abort(self) -> None:
        """The request ends or loses its source; the host reports it. Idempotent."""
        self._feed(stop_copy.RequestEnded())

    # ------------------------------------------------------------ the machine

    def _feed(self, event: Event) -> None:
        self._move, effects = stop_copy.step(self._move, event)
        self._obey(effects)
        if self._move.over and self._slot >= 0:
            slot, self._slot = self._slot, -1
            self._servers.let_go(self._ends.destination.address, slot)

    def _obey(self, effects: tuple[Effect, ...]) -> None:
        host, ends = self._host, self._ends
        for effect in effects:
            match effect:
                case stop_copy.Ask(call):
                    self._ask(call)
                case stop_copy.StopSource():
                    host.stop_source()
                case stop_copy.Remove():
                    self._servers.remove(ends.file)
                case stop_copy.Switch():
                    host.switch_kv(ends.destination, ends.epoch + 1, "")
                case stop_copy.GoOn("destination", reason):
                    host.go_on_by_replay(ends.destination, reason)
                case stop_copy.GoOn("source"):
                    host.go_on_here(ends.source)
                case stop_copy.Failed(reason, replayable):
                    host.kv_failed(reason, replayable)

    # ------------------------------------------------------------ calls

    def _ask(self, call: Call) -> None:
        servers, ends = self._servers, self._ends
        source, destination = ends.source.address, ends.destination.address
        heard = partial(self._on_reply, call)
        match call:
            case "find":
                servers.find(source, ends.call, heard)
            case "choose":
                servers.choose(destination, self._host.final_tokens, heard)
            case "save":
                servers.save(StoppedSlot(source, self._source_slot, ends.call), ends.file, heard)
            case "restore":
                servers.restore(destination, self._slot, ends.file, heard)

    def _on_reply(self, call: Call, reply: SlotReply | None) -> None:
        if reply is None:
            self._feed(NoAnswer(call))
            return
        refusal = reply.refusal
        if reply.bars:
            ends = self._ends
            self._servers.bar(ends.source.address, ends.destination.address, reply.bars)
        match call:
            case "find":
                self._source_slot = reply.slot
            case "choose" if not refusal:
                self._slot = reply.slot  # which `_feed` lets go of where the move is over
                refusal = self._host.stop_refusal
            case "save" if not (refusal or self._move.over):
                self.copied_bytes = reply.bytes
                refusal = self._host.adopt(reply.token_ids)
        self._feed(Answered(call, refusal))
