"""Every interleaving of a move by saved slots: one engine decodes at most, and nothing is left."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_gateway.moves import stop_copy
from shunter_gateway.moves.stop_copy import Answered, Effect, Event, NoAnswer, SlotMove, Step

TOKENS = 4  # of the whole answer
CALLS: tuple[stop_copy.Call, ...] = ("find", "choose", "save", "restore")
Machine = Callable[[SlotMove, Event], Step]


class World(NamedTuple):
    """`decodes`: the engine that a call keeps at work; `source_made` of its tokens are not all
    `got`. A saved file holds as many tokens as the source had made."""

    move: SlotMove
    decodes: str = "source"
    source_made: int = 1
    source_alive: bool = True
    got: int = 1  # tokens that the client has
    asked: str = ""  # the call that the gateway waits for
    wire: tuple[str, ...] = ()  # calls that may still be done
    answers: tuple[Event, ...] = ()  # on their way back
    file: int = -1  # tokens in it; -1: there is none
    cached: int = -1  # tokens in the destination's slot
    outcome: str = ""  # finished, cancelled
    calls: int = 1  # that were made for the request, and are open
    problem: str = ""
    faults: int = 2


Action = tuple[str, World]


def first(faults: int) -> World:
    move, effects = stop_copy.begin()
    return obey(World(move, faults=faults), effects)


def obey(world: World, effects: tuple[Effect, ...]) -> World:
    for effect in effects:
        match effect:
            case stop_copy.Ask(call):
                world = world._replace(asked=call, wire=(*world.wire, call))
            case stop_copy.StopSource():
                world = world._replace(decodes="", calls=world.calls - 1)
            case stop_copy.Remove():
                world = world._replace(file=-1)
            case stop_copy.Switch():
                world = called(world, "destination")
                if world.cached < world.got - 1:
                    world = world._replace(problem="nothing was restored")
            case stop_copy.GoOn(side, _):
                world = called(world, side)
            case stop_copy.Failed() if world.calls != 1:
                world = world._replace(problem="nobody goes on")
            case _:
                pass
    return world


def called(world: World, side: str) -> World:
    """From the journal: what is made next follows what the client has."""
    world = world._replace(decodes=side, calls=world.calls + 1, source_made=world.got)
    return world._replace(problem="two engines decode") if world.calls > 1 else world


def actions(world: World, machine: Machine) -> Iterator[Action]:
    def told(event: Event, before: World) -> World:
        move, effects = machine(before.move, event)
        return obey(before._replace(move=move), effects)

    for call in dict.fromkeys(world.wire):
        rest = list(world.wire)
        rest.remove(call)
        taken = world._replace(wire=tuple(rest))
        answered = taken._replace(answers=(*taken.answers, Answered(call)))  # type: ignore[arg-type]
        dead = call in ("find", "save") and not world.source_alive
        if not dead and not (call == "save" and world.decodes == "source"):
            yield f"{call} is done", done(answered, call)
        if world.faults:
            spent = taken._replace(faults=world.faults - 1)
            yield f"{call} is lost", spent
            refused = Answered(call, "refused")  # type: ignore[arg-type]
            yield f"{call} is refused", spent._replace(answers=(*taken.answers, refused))
            if not dead and not (call == "save" and world.decodes == "source"):
                yield f"{call} is done, its answer lost", done(spent, call)
    for event in dict.fromkeys(world.answers):
        left = list(world.answers)
        left.remove(event)
        came = world._replace(answers=tuple(left))
        mine = getattr(event, "call", "") == world.asked
        yield f"{event} comes", told(event, came._replace(asked="" if mine else world.asked))
    if world.asked:  # the gateway waits no longer: done or not, now or later
        silent = world._replace(asked="")
        yield "no answer", told(NoAnswer(world.asked), silent)  # type: ignore[arg-type]
    yield from streams(world, told)


def done(world: World, call: str) -> World:
    if call == "save":
        return world._replace(file=world.source_made)
    if call == "restore" and world.file >= 0:
        return world._replace(cached=world.file)
    if call == "restore":  # the file is gone: a server refuses
        answers = tuple(a for a in world.answers if a != Answered("restore"))
        return world._replace(answers=(*answers, Answered("restore", "no file")))
    return world


def streams(world: World, told: Callable[[Event, World], World]) -> Iterator[Action]:
    if world.outcome:
        return
    closed = world._replace(decodes="", calls=0)
    if world.decodes == "source" and world.source_alive:
        if world.source_made < TOKENS:
            yield "the source decodes", world._replace(source_made=world.source_made + 1)
        if world.got < world.source_made:
            yield "a token comes", world._replace(got=world.got + 1)
        if world.got == TOKENS:
            yield "finished", told(stop_copy.RequestEnded(), closed._replace(outcome="finished"))
    if world.decodes == "destination":
        if world.got < TOKENS:
            yield "the destination decodes", world._replace(got=world.got + 1)
        else:
            yield "finished", told(stop_copy.RequestEnded(), closed._replace(outcome="finished"))
    if world.faults:
        spent = closed._replace(faults=world.faults - 1, outcome="cancelled")
        yield "the client leaves", told(stop_copy.RequestEnded(), spent)
        if world.source_alive:
            dead = world._replace(faults=world.faults - 1, source_alive=False)
            yield "the source dies", dead
    if world.decodes == "source" and not world.source_alive:
        # The request's recovery hears of it, ends the move, and goes on elsewhere.
        ended = told(stop_copy.RequestEnded(), closed)
        yield "recovered", ended._replace(decodes="destination", calls=1, source_made=world.got)


def violation(world: World) -> str:
    if world.problem:
        return world.problem
    if world.calls > 1:
        return "two engines decode"
    return ""


def left_over(world: World) -> str:
    if not world.outcome:
        return "the request never ends"
    if world.outcome == "finished" and world.got != TOKENS:
        return "tokens are missing"
    return "a file is left" if world.file >= 0 else ""


class Found(AssertionError):
    """A violation, and the shortest way to it."""


def explore(faults: int, machine: Machine = stop_copy.step) -> int:
    """All states that can be reached, breadth first. Files that were written after nobody waited
    for them any more are the sweep's: a late save counts only while the gateway may hear of it."""
    begin = first(faults)
    came: dict[World, tuple[str, ...]] = {begin: ()}
    queue = deque([begin])
    while queue:
        world = queue.popleft()
        way = came[world]
        if problem := violation(world):
            raise Found(problem, *way)
        following = list(actions(world, machine))
        if not following and (problem := left_over(swept(world, way))):
            raise Found(problem, *way)
        for name, after in following:
            if after not in came:
                came[after] = (*way, name)
                queue.append(after)
        assert len(came) < 300_000, "bounds are too wide"
    return len(came)


def swept(world: World, way: tuple[str, ...]) -> World:
    """By age, where the save was not answered, or not in time."""
    unheard = "no answer" in way or any("its answer lost" in name for name in way)
    return world._replace(file=-1) if unheard else world


@pytest.mark.parametrize("faults", [0, 1, 2, 3])
def test_every_interleaving(faults: int) -> None:
    assert explore(faults) > 50


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_long_walks_with_many_faults(data: st.DataObject) -> None:
    world, way = first(8), []
    while following := list(actions(world, stop_copy.step)):
        name, world = following[data.draw(st.integers(0, len(following) - 1))]
        way.append(name)
        assert not violation(world), way
    assert not left_over(swept(world, tuple(way))), way


# ---------------------------------------------------------------- planted faults


def keeps_the_stream(move: SlotMove, event: Event) -> Step:
    after, effects = stop_copy.step(move, event)
    return after, tuple(e for e in effects if not isinstance(e, stop_copy.StopSource))


def goes_on_nowhere(move: SlotMove, event: Event) -> Step:
    after, effects = stop_copy.step(move, event)
    return after, tuple(e for e in effects if not isinstance(e, stop_copy.GoOn))


def leaves_the_file(move: SlotMove, event: Event) -> Step:
    after, effects = stop_copy.step(move, event)
    return after, tuple(e for e in effects if not isinstance(e, stop_copy.Remove))


def hears_no_late_save(move: SlotMove, event: Event) -> Step:
    return (move, ()) if move.over else stop_copy.step(move, event)


def switches_unrestored(move: SlotMove, event: Event) -> Step:
    if move.phase == "restoring" and isinstance(event, Answered) and event.refusal:
        event = replace(event, refusal="")
    return stop_copy.step(move, event)


@pytest.mark.parametrize(
    ("machine", "problem"),
    [
        (keeps_the_stream, "two engines decode"),
        (goes_on_nowhere, "nobody goes on"),
        (leaves_the_file, "a file is left"),
        (hears_no_late_save, "a file is left"),
        (switches_unrestored, "nothing was restored"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_planted_fault_is_found(machine: Machine, problem: str) -> None:
    with pytest.raises(Found, match=problem):
        explore(2, machine)
