"""Every interleaving of a move, within bounds: the invariants of a live migration hold."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_move_engines import Destination, Faults
from kv_move_model import Model
from kv_move_world import SOURCE, Budget, World
from shunter_gateway.moves import values
from shunter_gateway.moves.protocol import step

MODEL = Model()
WITHOUT_LEASES = replace(MODEL, leases_end=False)
MOST_STATES = 100_000


MayStay = Callable[[Destination], bool]  # where nothing can happen any more


def nothing_may(_: Destination) -> bool:
    return False


def violation(world: World) -> str:
    """Which promise does not hold in this state."""
    source, destinations = world.source, world.destinations
    if source.decodes + sum(one.phase == "decoding" for one in destinations) > 1:
        return "two engines decode"
    if any(one.wrong for one in destinations):
        return "a continuation of another text"
    over = all(move.over for move in world.moves)
    if over and world.owner == SOURCE and source.phase == "frozen":
        return "nobody thaws the owner"
    return ""


def left_over(world: World, tokens: int, may_stay: MayStay = nothing_may) -> str:
    """What is wrong where nothing can happen any more."""
    if not world.outcome:
        return "the request never ends"
    if world.outcome == "finished" and world.got != tokens:
        return "tokens are missing"
    if world.source.holds or any(one.holds and not may_stay(one) for one in world.destinations):
        return "memory is not given back"
    return ""


class Found(AssertionError):
    """A violation, and the shortest way to it."""


Came = dict[World, tuple[World, object] | None]


def explore(model: Model, first: World, may_stay: MayStay = nothing_may) -> Came:
    """All states that can be reached, breadth first. Raises `Found`."""
    came: Came = {first: None}
    queue = deque([first])
    while queue:
        world = queue.popleft()
        if problem := violation(world):
            raise Found(problem, *way_to(came, world))
        some = False
        for name, after in model.actions(world):
            some = True
            if after not in came:
                came[after] = (world, name)
                queue.append(after)
        if not some and (problem := left_over(world, model.tokens, may_stay)):
            raise Found(problem, *way_to(came, world))
        assert len(came) <= MOST_STATES, "bounds are too wide"
    return came


def way_to(came: Came, world: World) -> list[object]:
    way: list[object] = []
    while (before := came[world]) is not None:
        world, name = before
        way.append(name)
    return way[::-1]


def budgets(most: int) -> Iterator[Budget]:
    for size in range(1, most + 1):
        for names in combinations_with_replacement(Budget._fields, size):
            yield Budget(*(names.count(name) for name in Budget._fields))


def spent(budget: Budget) -> str:
    return "+".join(f"{count} {name}" for name, count in budget._asdict().items() if count)


def needs_leases(budget: Budget) -> bool:
    """What is withdrawn once, without an answer, may be lost; crashes are looked at below."""
    return bool(budget.lost or budget.leases or budget.crashes)


@pytest.mark.parametrize("budget", [b for b in budgets(2) if needs_leases(b)], ids=spent)
def test_every_interleaving_with_two_faults(budget: Budget) -> None:
    explore(MODEL, MODEL.first(budget))


@pytest.mark.parametrize("budget", [b for b in budgets(2) if not needs_leases(b)], ids=spent)
def test_nothing_waits_for_a_lease(budget: Budget) -> None:
    explore(WITHOUT_LEASES, WITHOUT_LEASES.first(budget))


def test_a_crash_leaves_nothing_but_what_nobody_has_begun_to_pull() -> None:
    def is_left(one: Destination) -> bool:
        return one.phase == "reserved" and not one.pulling

    came = explore(WITHOUT_LEASES, WITHOUT_LEASES.first(Budget(crashes=1)), is_left)
    assert any(is_left(one) for world in came for one in world.destinations if not world.wire)


def test_every_interleaving_of_two_moves_of_one_request() -> None:
    explore(MODEL, MODEL.first(Budget(), moves=2))


def test_without_a_fault_the_request_moves_or_ends_before() -> None:
    outcomes = {
        (world.outcome, world.epoch)
        for world in explore(MODEL, MODEL.first(Budget()))
        if world.outcome
    }
    assert outcomes == {("finished", 1), ("finished", 2), ("finished", 3)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_long_walks_with_many_faults(data: st.DataObject) -> None:
    model = Model(tokens=6)
    budget = Budget(*(data.draw(st.integers(0, 3), label=name) for name in Budget._fields))
    world = model.first(budget, moves=data.draw(st.integers(1, 2)))
    while actions := list(model.actions(world)):
        name, world = actions[data.draw(st.integers(0, len(actions) - 1))]
        assert not violation(world), name
    assert not left_over(world, model.tokens)


# ---------------------------------------------------------------- planted faults


def thaws_without_epoch(
    move: values.KvMove, event: values.Event, rules: values.MoveRules
) -> values.Step:
    """The source goes on under the epoch that it had."""
    after, effects = step(move, event, rules)
    return after, tuple(
        replace(effect, epoch=move.epoch)
        if isinstance(effect, values.Ask) and effect.call == "thaw"
        else effect
        for effect in effects
    )


def forgets_the_stream(
    move: values.KvMove, event: values.Event, rules: values.MoveRules
) -> values.Step:
    """Does not wait for what was generated before Freeze."""
    if isinstance(event, values.Answered) and event.call == "freeze":
        event = replace(event, output_tokens=move.output_tokens)
    return step(move, event, rules)


def withdraws_under_the_old_epoch(
    move: values.KvMove, event: values.Event, rules: values.MoveRules
) -> values.Step:
    """A Prepare that comes after it is obeyed."""
    after, effects = step(move, event, rules)
    return after, tuple(
        replace(effect, epoch=move.epoch)
        if isinstance(effect, values.Withdraw) and effect.epoch == move.epoch + 1
        else effect
        for effect in effects
    )


PLANTED = {
    "late Commit": (Model(faults=Faults(late_commit=True)), "two engines decode"),
    "endless lease": (Model(faults=Faults(endless_lease=True)), "memory is not given back"),
    "double selection": (Model(faults=Faults(double_selection=True)), "two engines decode"),
    "old epoch": (Model(faults=Faults(old_epoch=True)), "nobody thaws the owner"),
    "lost tail": (Model(faults=Faults(lost_tail=True)), "a continuation of another text"),
    "tail not read": (Model(machine=forgets_the_stream), "a continuation of another text"),
    "thaw without epoch": (Model(machine=thaws_without_epoch), "nobody thaws the owner"),
    "thaw by itself": (Model(faults=Faults(thaws_by_itself=True)), "two engines decode"),
    "withdrawal overtakes": (
        replace(WITHOUT_LEASES, machine=withdraws_under_the_old_epoch),
        "memory is not given back",
    ),
    "no fence": (
        replace(WITHOUT_LEASES, faults=Faults(no_fence=True)),
        "memory is not given back",
    ),
    "nobody leaves": (replace(WITHOUT_LEASES, leaves=False), "memory is not given back"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found(name: str) -> None:
    model, problem = PLANTED[name]
    tries = [(b, 1) for b in budgets(2) if model.leases_end or not needs_leases(b)]
    if name == "double selection":
        tries = [(Budget(), 2)]
    found = ""
    for budget, moves in tries:
        try:
            explore(model, model.first(budget, moves))
        except Found as error:
            found = str(error.args[0])
            break
    assert found == problem
