"""Carries out Move decisions in virtual time, as the gateway does, and notes what came of each."""

from collections.abc import Mapping

from shunter_scheduler.domain.decisions import Move as MoveCommand
from shunter_simulator.scenarios.moves import MoveSettings
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.copies import KvMove
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.life import Life
from shunter_simulator.virtual.links import Links
from shunter_simulator.virtual.moving import Move, MoveWorld, MovingGateway, Rung
from shunter_simulator.virtual.results import MoveRecord
from shunter_simulator.virtual.warm_ups import ReplayMove

_WAYS: Mapping[Rung, type[Move]] = {"kv": KvMove, "replay": ReplayMove, "restart": Move}


class Mover:
    """One move of a request at a time."""

    def __init__(
        self,
        agenda: Agenda,
        fleet: Fleet,
        gateway: MovingGateway,
        settings: MoveSettings,
        engine_delay_s: float,
    ) -> None:
        self._fleet = fleet
        self._gateway = gateway
        self._agenda = agenda
        links = Links(agenda, settings.bandwidth_gb_s * 1e9)
        self._world = MoveWorld(
            agenda,
            fleet,
            gateway,
            links,
            settings,
            engine_delay_s,
            failed=self._failed,
            refused=self._refused,
        )
        self.log: list[MoveRecord] = []

    def start(self, life: Life, command: MoveCommand) -> None:
        """A command that cannot be carried out is answered; a move under way is not touched."""
        target = self._fleet.slots.get(command.destination)
        if refusal := _refusal(life, target):
            self._note(life, command, command.rung, life.instance, refusal)
            self._gateway.report_move(life, moved=False, rung="replay", reason=refusal)
            return
        assert target is not None
        rung = self._rung(life, command)
        life.move = _WAYS[rung](self._world, life, target, command)
        life.move.start()

    def _rung(self, life: Life, command: MoveCommand) -> Rung:
        """What has begun is never started anew; KV blocks are copied where both ends can."""
        if not life.began:
            return "restart"
        copies = self._world.settings.transport == "kv" and command.rung == "kv"
        return "kv" if copies else "replay"

    def on_token(self, life: Life) -> bool:
        """The destination's first token ends the move, if there is one. True where it says nothing
        of that engine's speed, because its prefix was there."""
        move = life.move
        if move is None or not move.switched:
            return False
        self._moved(life, move)
        return move.rung != "restart"

    def end(self, life: Life, reason: str) -> None:
        """The request ends, or loses its engine."""
        move = life.move
        if move is not None and move.switched:
            self._moved(life, move)
        elif move is not None:
            move.fail(reason)

    def _moved(self, life: Life, move: Move) -> None:
        stopped_at = move.stopped_at
        stall_s = self._agenda.now - stopped_at if life.produced and stopped_at is not None else 0.0
        life.stall_s += stall_s
        life.moves += 1
        life.move = None
        move.over = True
        self._note(life, move.command, move.rung, move.source.name, "", stall_s)
        self._gateway.report_move(
            life, moved=True, rung=move.rung, reason=move.refusal, stall_s=stall_s
        )

    def _failed(self, move: Move, reason: str) -> None:
        life = move.life
        life.move = None
        self._note(life, move.command, move.rung, move.source.name, reason)
        self._gateway.report_move(life, moved=False, rung=move.rung, reason=reason)

    def _refused(self, move: Move, reason: str) -> None:
        """Where the destination caches prefixes; elsewhere a replay would compute all of it while
        the client waits."""
        if not move.target.shape.cache_block_tokens:
            self._failed(move, reason)
            return
        replay = ReplayMove(self._world, move.life, move.target, move.command)
        replay.refusal = reason
        move.life.move = replay
        replay.start()

    def _note(
        self,
        life: Life,
        command: MoveCommand,
        rung: str,
        source: str,
        why_not: str,
        stall_s: float = 0.0,
    ) -> None:
        self.log.append(
            MoveRecord(
                self._agenda.now,
                life.row,
                source,
                command.destination,
                rung,
                command.reason,
                not why_not,
                why_not,
                stall_s,
            )
        )


def _refusal(life: Life, target: Slot | None) -> str:
    if life.move is not None:
        return "already_moving"
    if target is None or not target.listed:
        return "unknown_destination"
    if life.slot is None or not life.slot.there:
        return "source_failed"
    return "already_there" if target is life.slot else ""
