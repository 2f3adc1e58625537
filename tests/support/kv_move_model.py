"""Two engines, a gateway and a network around the machine of `moves.protocol`, as values.

`actions` gives all that may happen next: any message may come late, twice or never, leases end,
engines and gateway crash, the client leaves. The engines keep to the promises of `moves.proto`;
each of `Faults` breaks one. Only streams are ordered and reliable, as TCP is, until they break.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast, get_args

from kv_move_engines import Destination, Faults, Message, Source, at_destination, at_source
from shunter_gateway.moves import values
from shunter_gateway.moves.protocol import begin, step
from shunter_gateway.moves.values import (
    Answered,
    Effect,
    Event,
    KvMove,
    MoveRules,
    NoAnswer,
    RequestEnded,
    StageCame,
    StateTold,
    TokensCame,
)

RULES = MoveRules(freeze_behind_tokens=0, max_stages=1, max_tries=2)
Machine = Callable[[KvMove, Event, MoveRules], values.Step]
_HELD: dict[str, values.Held] = {held: held for held in get_args(values.Held)}
_REFUSABLE = ("offer", "prepare", "pull", "freeze", "commit", "thaw")
SOURCE, NOBODY = -1, -2  # owners beside the destinations' numbers


class Budget(NamedTuple):
    """How much may still go wrong."""

    late: int = 0  # calls that are given up although they may still be done
    lost: int = 0
    twice: int = 0
    leases: int = 0  # that end early
    crashes: int = 0
    cancels: int = 0
    preemptions: int = 0
    refusals: int = 0


class World(NamedTuple):
    source: Source
    destinations: tuple[Destination, ...]
    moves: tuple[KvMove, ...]
    asked: tuple[str, ...]  # the call that each move waits for
    owner: int
    epoch: int
    got: int  # tokens that the client has
    outcome: str  # empty while the request lives; finished, elsewhere, cancelled, crashed
    wire: tuple[Message, ...]
    budget: Budget


Action = tuple[tuple[object, ...], World]  # its name, and what comes of it


@dataclass(frozen=True, slots=True)
class Model:
    tokens: int = 3  # of the whole answer
    faults: Faults = field(default_factory=Faults)
    machine: Machine = step

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
        if not some:
            yield from self._leases(world)

    def _all(self, world: World) -> Iterator[Action]:
        yield from self._network(world)
        yield from self._gateway(world)
        yield from self._source(world)
        for i, _ in enumerate(world.destinations):
            yield from self._destination(world, i)
        if world.budget.leases:
            yield from self._leases(_spend(world, "leases"))

    def _network(self, world: World) -> Iterator[Action]:
        for message in dict.fromkeys(world.wire):
            taken = self._deliver(_without(world, message), message)
            yield ("comes", message), taken
            if message.kind in ("generate", "close"):
                continue  # HTTP
            asked = message.to != "gateway" and message.kind in _REFUSABLE
            if world.budget.refusals and asked:
                refused = Message("gateway", message.kind, message.move, 0, "refused")
                after = _send(_without(world, message), refused)
                yield ("is refused", message), _spend(after, "refusals")
            if world.budget.twice:
                again = taken._replace(wire=_sorted(*taken.wire, message))
                yield ("comes, and will again", message), _spend(again, "twice")
            if world.budget.lost:
                yield ("is lost", message), _spend(_without(world, message), "lost")

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
                after = _spend(world, "late")
                yield (call, i, "is late"), self._feed(after, i, NoAnswer(_call(call)))
        if world.budget.cancels:
            yield ("the client leaves",), self.end(_spend(world, "cancels"), "cancelled")
        if world.budget.crashes:
            yield ("the gateway dies",), self.end(_spend(world, "crashes"), "crashed")
        yield from self._stream(world)

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
            yield ("source decodes",), _of(world, source._replace(tokens=tokens, phase=phase))
        if source.phase == "offered" and world.budget.preemptions:
            after = _of(world, source._replace(phase="decoding", move=-1))
            yield ("source preempts",), _spend(after, "preemptions")
        if source.holds and world.budget.crashes:
            yield ("source dies",), _spend(_of(world, source._replace(phase="gone")), "crashes")

    def _destination(self, world: World, i: int) -> Iterator[Action]:
        mine, source = world.destinations[i], world.source
        if mine.phase == "decoding":
            tokens = mine.tokens + 1
            phase = "finished" if tokens >= self.tokens else "decoding"
            yield (i, "decodes"), _at(world, i, mine._replace(tokens=tokens, phase=phase))
        elif mine.pulling and source.move == i and source.phase == "offered" and not mine.kv:
            after = _at(world, i, mine._replace(kv=source.tokens - 1 or 1))
            yield (i, "has a stage"), _send(after, Message("gateway", "stage", i))
        elif mine.pulling and source.move == i and source.phase == "frozen" and not mine.complete:
            yield (i, "has all"), _at(world, i, mine._replace(kv=source.tokens, complete=True))
        if mine.phase != "none" and mine.phase != "gone" and world.budget.crashes:
            yield (i, "dies"), _spend(_at(world, i, Destination("gone")), "crashes")

    def _leases(self, world: World) -> Iterator[Action]:
        source = world.source
        if source.phase == "offered":
            yield ("offer ends",), _of(world, source._replace(phase="decoding", move=-1))
        if source.phase == "frozen":
            phase = "decoding" if self.faults.thaws_by_itself else "gone"
            yield ("frozen lease ends",), _of(world, source._replace(phase=phase, move=-1))
        if self.faults.endless_lease:
            return
        for i, one in enumerate(world.destinations):
            if one.phase in ("reserved", "committed"):
                yield (i, "lease ends"), _at(world, i, Destination(epoch=one.epoch))

    # ------------------------------------------------------------ messages

    def _deliver(self, world: World, message: Message) -> World:
        if message.to == "source":
            source, reply = at_source(world.source, message, self.faults)
            after = _of(world, source)
        elif message.to == "destination":
            one, reply = at_destination(world.destinations[message.move], message, self.faults)
            after = _at(world, message.move, one)
        else:
            return self._hear(world, message)
        unheard = reply is None or world.moves[reply.move].over
        return after if unheard or reply is None else _send(after, reply)

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
            world = world._replace(asked=_put(world.asked, i, ""))
        move, effects = self.machine(world.moves[i], event, RULES)
        if move.over:  # hears nothing any more
            wire = tuple(m for m in world.wire if m.to != "gateway" or m.move != i)
            world = world._replace(wire=wire)
        return self._obey(world._replace(moves=_put(world.moves, i, move)), i, effects)

    def _obey(self, world: World, i: int, effects: tuple[Effect, ...]) -> World:
        for effect in effects:
            world = self._do(world, i, effect)
        return world

    def _do(self, world: World, i: int, effect: Effect) -> World:
        match effect:
            case values.Ask(call, epoch):
                to = "source" if call in ("offer", "freeze", "thaw") else "destination"
                world = world._replace(asked=_put(world.asked, i, call if call != "pull" else ""))
                return _send(world, Message(to, call, i, epoch))
            case values.Withdraw(side, epoch):
                return _send(world, Message(side, "abort", i, epoch))
            case values.Switch(epoch):
                if world.owner != SOURCE or world.epoch != world.moves[i].epoch:
                    return self._feed(world, i, RequestEnded())
                world = world._replace(owner=i, epoch=epoch)
                return _send(
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
        return _send(world, *closed)


def _call(name: str) -> values.Call:
    return cast(values.Call, name)


def _sorted(*messages: Message) -> tuple[Message, ...]:
    return tuple(sorted(messages))


def _send(world: World, *messages: Message) -> World:
    return world._replace(wire=_sorted(*world.wire, *messages))


def _without(world: World, message: Message) -> World:
    wire = list(world.wire)
    wire.remove(message)
    return world._replace(wire=tuple(wire))


def _spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def _of(world: World, source: Source) -> World:
    return world._replace(source=source)


def _put(values: tuple, i: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:i], value, *values[i + 1 :])


def _at(world: World, i: int, one: Destination) -> World:
    return world._replace(destinations=_put(world.destinations, i, one))
