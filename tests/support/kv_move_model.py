"""Two engines, a gateway and a network around the machine of `moves.protocol`, as values.

`actions` gives all that may happen next: any message may come late, twice or never, streams break,
leases end, engines and gateway crash, the client leaves. The engines keep to the promises of
`moves.proto`; each of `Faults` breaks one. Only streams are ordered and reliable, as TCP is, until
they break: an open Pull tells of that, and a generate call whose connection closes is unheard.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast, get_args

from kv_move_engines import Destination, Faults, Message, Source, at_destination, at_source
from kv_move_world import (
    NOBODY,
    SOURCE,
    Budget,
    World,
    at,
    of,
    ordered,
    put,
    send,
    spend,
    unheard,
    without,
)
from shunter_gateway.moves import values
from shunter_gateway.moves.protocol import begin, step
from shunter_gateway.moves.values import (
    Answered,
    Effect,
    Event,
    KvMove,
    MoveRules,
    NoAnswer,
    Overdue,
    RequestEnded,
    StageCame,
    StateTold,
    TokensCame,
)

RULES = MoveRules(freeze_behind_tokens=0, max_stages=1, max_tries=2)
Machine = Callable[[KvMove, Event, MoveRules], values.Step]
_HELD: dict[str, values.Held] = {held: held for held in get_args(values.Held)}
_STREAMS = ("generate", "close", "leave")  # HTTP, and the end of a Pull
_REFUSABLE = ("offer", "prepare", "pull", "freeze", "commit", "thaw")
Action = tuple[tuple[object, ...], World]  # its name, and what comes of it


@dataclass(frozen=True, slots=True)
class Model:
    tokens: int = 3  # of the whole answer
    faults: Faults = field(default_factory=Faults)
    machine: Machine = step
    leaves: bool = True  # the gateway ends the Pull of a request that has ended after its switch
    leases_end: bool = True

    def first(self, budget: Budget, moves: int = 1) -> World:
        world = World(
            Source(), (Destination(),) * moves, (), ("",) * moves, SOURCE, 1, 1, "", (), budget
        )
        for i in range(moves):
            move, effects = begin(1, 1)
            world = self._obey(world._replace(moves=(*world.moves, move)), i, effects)
        return world

    # ------------------------------------------------------------ what may happen

    def actions(self, world: World) -> Iterator[Action]:
        """Steps of the model with their names; leases end for free once nothing else happens."""
        some = False
        for name, after in self._all(world):
            some = True
            yield name, after
        if not some and self.leases_end:
            yield from self._leases(world)

    def _all(self, world: World) -> Iterator[Action]:
        yield from self._network(world)
        yield from self._gateway(world)
        yield from self._source(world)
        for i, _ in enumerate(world.destinations):
            yield from self._destination(world, i)
        if world.budget.leases:
            yield from self._leases(spend(world, "leases"))

    def _network(self, world: World) -> Iterator[Action]:
        for message in dict.fromkeys(world.wire):
            taken = self._deliver(without(world, message), message)
            yield ("comes", message), taken
            if message.kind in _STREAMS:
                continue
            asked = message.to != "gateway" and message.kind in _REFUSABLE
            if world.budget.refusals and asked:
                refused = Message("gateway", message.kind, message.move, 0, "refused")
                after = send(without(world, message), refused)
                yield ("is refused", message), spend(after, "refusals")
            if world.budget.twice:
                again = taken._replace(wire=ordered(*taken.wire, message))
                yield ("comes, and will again", message), spend(again, "twice")
            if world.budget.lost:
                yield ("is lost", message), spend(without(world, message), "lost")

    def _gateway(self, world: World) -> Iterator[Action]:
        if world.outcome:
            return
        for i, call in enumerate(world.asked):
            if not call or world.moves[i].over:
                continue
            under_way = any(m.move == i and m.kind == call for m in world.wire)
            if not under_way:
                yield (call, i, "was lost"), self._feed(world, i, NoAnswer(_call(call)))
            elif world.budget.late:
                after = spend(world, "late")
                yield (call, i, "is late"), self._feed(after, i, NoAnswer(_call(call)))
        for i, move in enumerate(world.moves):
            if world.budget.late and move.phase in ("copying", "freezing", "draining"):
                yield (i, "takes too long"), self._feed(spend(world, "late"), i, Overdue())
        if world.budget.breaks:
            yield from self._breaks(spend(world, "breaks"))
        if world.budget.cancels:
            yield ("the client leaves",), self.end(spend(world, "cancels"), "cancelled")
        if world.budget.crashes:
            yield ("the gateway dies",), self.end(spend(world, "crashes"), "crashed")
        yield from self._stream(world)

    def _breaks(self, world: World) -> Iterator[Action]:
        for i, one in enumerate(world.destinations):
            if one.pulling:
                after = send(world, Message("destination", "leave", i))
                yield (i, "pull breaks"), self._feed(after, i, NoAnswer("pull"))
            if world.owner == i:
                after = unheard(world, i, "generate")
                if after != world:
                    yield (i, "is not reached"), self.end(after, "elsewhere")

    def _stream(self, world: World) -> Iterator[Action]:
        """What the owner's stream brings next."""
        i = world.owner
        engine = world.source if i == SOURCE else world.destinations[i]
        if world.got < engine.tokens:
            after = world._replace(got=world.got + 1)
            for move in range(len(after.moves) if i == SOURCE else 0):
                after = self._feed(after, move, TokensCame(after.got))
            yield ("a token is read",), after
        elif engine.phase == "finished":
            yield ("the end is read",), self.end(world, "finished")
        if engine.phase == "gone":
            yield ("the stream breaks",), self.end(world, "elsewhere")

    def _source(self, world: World) -> Iterator[Action]:
        source = world.source
        if source.decodes:
            tokens = source.tokens + 1
            phase = "finished" if tokens == self.tokens else source.phase
            yield ("source decodes",), of(world, source._replace(tokens=tokens, phase=phase))
        if source.phase == "offered" and world.budget.preemptions:
            after = of(world, source._replace(phase="decoding", move=-1))
            yield ("source preempts",), spend(after, "preemptions")
        if source.holds and world.budget.crashes:
            yield ("source dies",), spend(of(world, source._replace(phase="gone")), "crashes")

    def _destination(self, world: World, i: int) -> Iterator[Action]:
        mine, source = world.destinations[i], world.source
        if mine.phase == "decoding":
            tokens = mine.tokens + 1
            phase = "finished" if tokens >= self.tokens else "decoding"
            yield (i, "decodes"), at(world, i, mine._replace(tokens=tokens, phase=phase))
        elif mine.pulling and source.move == i and source.phase == "offered" and not mine.kv:
            after = at(world, i, mine._replace(kv=source.tokens - 1 or 1))
            yield (i, "has a stage"), send(after, Message("gateway", "stage", i))
        elif mine.pulling and source.move == i and source.phase == "frozen" and not mine.complete:
            yield (i, "has all"), at(world, i, mine._replace(kv=source.tokens, complete=True))
        if mine.phase != "none" and mine.phase != "gone" and world.budget.crashes:
            yield (i, "dies"), spend(at(world, i, Destination("gone")), "crashes")

    def _leases(self, world: World) -> Iterator[Action]:
        source = world.source
        if source.phase == "offered":
            yield ("offer ends",), of(world, source._replace(phase="decoding", move=-1))
        if source.phase == "frozen":
            phase = "decoding" if self.faults.thaws_by_itself else "gone"
            yield ("frozen lease ends",), of(world, source._replace(phase=phase, move=-1))
        if self.faults.endless_lease:
            return
        for i, one in enumerate(world.destinations):
            if one.phase in ("reserved", "committed"):
                yield (i, "lease ends"), at(world, i, Destination(epoch=one.epoch))

    # ------------------------------------------------------------ messages

    def _deliver(self, world: World, message: Message) -> World:
        if message.to == "source":
            source, reply = at_source(world.source, message, self.faults)
            after = of(world, source)
        elif message.to == "destination":
            if message.kind == "close":
                world = unheard(world, message.move, "generate")
            one, reply = at_destination(world.destinations[message.move], message, self.faults)
            after = at(world, message.move, one)
        else:
            return self._hear(world, message)
        in_vain = reply is None or world.moves[reply.move].over
        return after if in_vain or reply is None else send(after, reply)

    def _hear(self, world: World, message: Message) -> World:
        call, i = message.kind, message.move
        if call == "stage":
            return self._feed(world, i, StageCame(1, 0))
        if call == "state" and message.text in _HELD:
            return self._feed(world, i, StateTold(_HELD[message.text]))
        return self._feed(world, i, Answered(_call(call), message.text, message.number))

    # ------------------------------------------------------------ the gateway

    def _feed(self, world: World, i: int, event: Event) -> World:
        if world.outcome == "crashed":
            return world
        if isinstance(event, Answered | NoAnswer) and world.asked[i] == event.call:
            world = world._replace(asked=put(world.asked, i, ""))
        move, effects = self.machine(world.moves[i], event, RULES)
        if move.over:  # hears nothing any more
            wire = tuple(m for m in world.wire if m.to != "gateway" or m.move != i)
            world = world._replace(wire=wire)
        return self._obey(world._replace(moves=put(world.moves, i, move)), i, effects)

    def _obey(self, world: World, i: int, effects: tuple[Effect, ...]) -> World:
        for effect in effects:
            world = self._do(world, i, effect)
        return world

    def _do(self, world: World, i: int, effect: Effect) -> World:
        match effect:
            case values.Ask(call, epoch):
                to = "source" if call in ("offer", "freeze", "thaw") else "destination"
                world = world._replace(asked=put(world.asked, i, call if call != "pull" else ""))
                return send(world, Message(to, call, i, epoch))
            case values.Withdraw(side, epoch):
                return send(world, Message(side, "abort", i, epoch))
            case values.Switch(epoch):
                if world.owner != SOURCE or world.epoch != world.moves[i].epoch:
                    return send(world, Message("destination", "abort", i, epoch))
                world = world._replace(owner=i, epoch=epoch)
                return send(
                    world,
                    Message("source", "release", i, epoch),
                    Message("source", "close", i),
                    Message("destination", "generate", i, world.got),
                )
            case values.Keep(epoch):
                mine = world.owner == SOURCE and world.epoch < epoch
                return world._replace(epoch=epoch) if mine else world
            case values.GiveUpSource():
                return self.end(world, "elsewhere")
        return world

    def end(self, world: World, outcome: str) -> World:
        """Nobody owns the request any more; the calls of all engines are closed."""
        world = world._replace(outcome=outcome, owner=NOBODY, asked=("",) * len(world.moves))
        if outcome != "crashed":
            for i in range(len(world.moves)):
                world = self._feed(world, i, RequestEnded())
        closed = [Message("source", "close", 0)]
        closed += [Message("destination", "close", i) for i in range(len(world.moves))]
        return self._leave(send(world, *closed), outcome == "crashed")

    def _leave(self, world: World, crashed: bool) -> World:
        """Moves that fail leave their Pull, too, but with an Abort, which does the same."""
        for i, move in enumerate(world.moves):
            if not crashed and (move.phase != "switched" or not self.leaves):
                continue
            world = unheard(world, i, "pull")
            if world.destinations[i].pulling:
                world = send(world, Message("destination", "leave", i))
        return world


def _call(name: str) -> values.Call:
    return cast(values.Call, name)
