"""The state of the model of `kv_move_model`, and how parts of it change."""

from typing import NamedTuple

from kv_move_engines import Destination, Message, Source
from shunter_gateway.moves.values import KvMove

SOURCE, NOBODY = -1, -2  # owners beside the destinations' numbers


class Budget(NamedTuple):
    """How much may still go wrong."""

    late: int = 0  # calls and copies that are given up although they may still be done
    lost: int = 0
    twice: int = 0
    breaks: int = 0  # of a Pull, or of a generate call that nobody heard
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


def ordered(*messages: Message) -> tuple[Message, ...]:
    return tuple(sorted(messages))


def send(world: World, *messages: Message) -> World:
    return world._replace(wire=ordered(*world.wire, *messages))


def without(world: World, message: Message) -> World:
    wire = list(world.wire)
    wire.remove(message)
    return world._replace(wire=tuple(wire))


def unheard(world: World, move: int, kind: str) -> World:
    """The connection breaks before this call is heard."""
    wire = tuple(m for m in world.wire if (m.move, m.kind) != (move, kind))
    return world._replace(wire=wire)


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def of(world: World, source: Source) -> World:
    return world._replace(source=source)


def put(values: tuple, i: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:i], value, *values[i + 1 :])


def at(world: World, i: int, one: Destination) -> World:
    return world._replace(destinations=put(world.destinations, i, one))
