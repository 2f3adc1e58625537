"""KV copies that stop their request: what they are predicted to take, and what is done about it."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_scheduler.core.planner.fleet import look
from shunter_scheduler.core.planner.gain import weigh
from shunter_scheduler.core.planner.party import HORIZON_S, party
from shunter_scheduler.core.planner.testing import PlannerHarness
from shunter_scheduler.core.planner.traffic import Traffic
from shunter_scheduler.core.planner.trips import trips_for
from shunter_scheduler.core.planner.view import Case, View
from shunter_scheduler.core.stop_copy import BYTES_PER_S, STALL_STEPS, SWITCH_S, StopCopies
from shunter_scheduler.core.testing import make_instances, only
from shunter_scheduler.domain.decisions import Move
from shunter_scheduler.domain.events import DrainRequested, MoveDone

FAST_S, SLOW_S = 1e-7, 3.5e-3  # a token of context
Terms = dict[str, float]


def cluster(
    engine_type: str = "llamacpp", count: int = 2, per_token_s: float | None = None
) -> PlannerHarness:
    values = [replace(value, engine_type=engine_type) for value in make_instances(count)]
    harness = PlannerHarness(instances=values)
    if per_token_s is not None:
        (pool,) = harness.core._state.pools.values()
        pool.stop_copies = StopCopies(per_token_s * BYTES_PER_S)
    return harness


def copies_of(harness: PlannerHarness) -> StopCopies:
    (pool,) = harness.core._state.pools.values()
    assert pool.stop_copies is not None
    return pool.stop_copies


def weighed(harness: PlannerHarness) -> dict[str, Terms]:
    """The terms of a move of "r", by rung, whether it pays or not."""
    state = harness.core._state
    (pool,) = state.pools.values()
    fleet = look(pool, harness.now)
    traffic = Traffic(state, pool, fleet, harness.now)
    view = View(state, pool, fleet, traffic, harness.now, HORIZON_S)
    case = Case(0, [state.entries["r"]])
    who = party(view, case)
    found: dict[str, Terms] = {}
    for trip in trips_for(view, case, who):
        best = weigh(fleet, who, replace(trip, margin=0.0, least_s=-inf))
        assert best is not None
        found[best.rung] = dict(best.terms)
    return found


def stall_s(engine_type: str, prompt_tokens: int) -> float:
    harness = cluster(engine_type)
    harness.load(harness.names[0], ["r"], prompt_tokens=prompt_tokens)
    return weighed(harness)["kv"]["stall"]


@settings(max_examples=25, deadline=None)
@given(st.integers(50, 1000), st.integers(100, 1000))
def test_its_stall_grows_with_the_context_and_that_of_a_staged_copy_does_not(
    tokens: int, more: int
) -> None:
    stopped = stall_s("llamacpp", tokens + more) - stall_s("llamacpp", tokens)
    assert stopped == pytest.approx(more * SLOW_S, rel=0.01)
    assert stall_s("numpy", tokens + more) == stall_s("numpy", tokens) < 0.1


def test_both_rungs_are_weighed_and_neighbours_wait_for_the_copy() -> None:
    harness = cluster()
    first, second = harness.names
    harness.load(first, ["r", "a", "b"], prompt_tokens=1000)
    harness.load(second, ["c"], prompt_tokens=10)
    ways = weighed(harness)
    takes_s = copies_of(harness).takes_s(1010.0)
    assert ways["kv"]["copy"] == pytest.approx(0.5 * 1010 * SLOW_S * (2 + 1), rel=0.01)
    assert ways["kv"]["stall"] > takes_s > ways["replay"]["stall"]
    assert "prefill" in ways["replay"] and "prefill" not in ways["kv"]
    assert set(weighed_staged()) == {"kv"}


def weighed_staged() -> dict[str, Terms]:
    harness = cluster("numpy")
    harness.load(harness.names[0], ["r"], prompt_tokens=1000)
    return weighed(harness)


@pytest.mark.parametrize(("per_token_s", "rung"), [(SLOW_S, "replay"), (FAST_S, "kv")])
def test_the_planner_takes_the_rung_that_costs_less(per_token_s: float, rung: str) -> None:
    harness = cluster(per_token_s=per_token_s)
    harness.load(harness.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    harness.now += 60.0
    moves = harness.plan()
    assert {move.rung for move in moves} == {rung}


@pytest.mark.parametrize(("per_token_s", "moves"), [(SLOW_S, False), (FAST_S, True)])
def test_a_copy_that_costs_more_than_it_gains_is_not_ordered(
    per_token_s: float, moves: bool
) -> None:
    harness = cluster(per_token_s=per_token_s)
    harness.load(harness.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    for entry in harness.core._state.entries.values():
        entry.only_kv = True
    harness.now += 60.0
    assert bool(harness.plan()) == moves


def test_the_link_is_taken_for_as_long_as_it_copies() -> None:
    harness = cluster(per_token_s=FAST_S)
    harness.load(harness.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    harness.now += 60.0
    (move,) = harness.plan()
    budget = harness.core._state.planner.budget(move.destination)
    context = harness.core._state.entries[move.request_id].context_tokens
    assert budget.link_free_at == harness.now + copies_of(harness).takes_s(float(context))


def drained(harness: PlannerHarness) -> Move:
    (move,) = only(Move, harness.after(DrainRequested(harness.names[0], 100.0)))
    return move


@pytest.mark.parametrize(("per_token_s", "rung"), [(SLOW_S, "replay"), (FAST_S, "kv")])
def test_a_drain_takes_the_shorter_way_and_says_what_the_client_waits(
    per_token_s: float, rung: str
) -> None:
    harness = cluster(per_token_s=per_token_s)
    harness.load(harness.names[0], ["r"], prompt_tokens=2000)
    assert drained(harness).rung == rung
    explained = harness.core.explain("r", harness.now)
    assert explained is not None
    waits = f", its client waits {copies_of(harness).takes_s(2010.0):.2f} s"
    reason = explained.decisions[-1].reason
    assert reason == f"drain of {harness.names[0]}, by {rung}" + (waits if rung == "kv" else "")


def test_what_cannot_be_replayed_goes_with_its_cache_to_the_same_destination() -> None:
    harness = cluster()
    harness.load(harness.names[0], ["r"], prompt_tokens=2000)
    move = drained(harness)
    assert move.rung == "replay"
    harness.apply(MoveDone("r", 1, move.source, False, "replay", "unknown_token_ids"))
    (again,) = harness.plan(after_s=1.1)
    assert (again.rung, again.destination) == ("kv", move.destination)
    harness.apply(MoveDone("r", 1, move.source, False, "kv", "unknown_token_ids"))
    assert harness.core._state.entries["r"].refused_by == (move.destination,)
    harness.check_books()


def test_another_refusal_leaves_the_rung_as_it_is() -> None:
    harness = cluster(count=3)
    harness.load(harness.names[0], ["r"], prompt_tokens=2000)
    move = drained(harness)
    harness.apply(MoveDone("r", 1, move.source, False, "replay", "no_room"))
    (again,) = harness.plan(after_s=1.1)
    assert again.rung == "replay" and again.destination != move.destination


def test_what_moves_report_is_what_the_next_ones_are_expected_to_take() -> None:
    harness = cluster()
    first, second = harness.names
    copies = copies_of(harness)
    before_s = copies.takes_s(2010.0)
    assert before_s == pytest.approx(2010 * SLOW_S, rel=0.01)
    harness.load(first, ["r"], prompt_tokens=2000)
    harness.core._state.entries["r"].only_kv = True
    move = drained(harness)
    harness.apply(MoveDone("r", 2, second, True, move.rung, stall_s=0.5))
    assert move.rung == "kv" and copies.takes_s(2010.0) < 0.2 * before_s


def test_a_replay_says_nothing_of_copies() -> None:
    harness = cluster()
    harness.load(harness.names[0], ["r"], prompt_tokens=2000)
    before_s, move = copies_of(harness).takes_s(2010.0), drained(harness)
    harness.apply(MoveDone("r", 2, move.destination, True, "replay", stall_s=0.5))
    assert copies_of(harness).takes_s(2010.0) == before_s


@given(st.floats(2e-5, 1e-2), st.floats(0.0, 0.2))
def test_it_learns_how_long_copies_take(per_token_s: float, step_s: float) -> None:
    copies = StopCopies(0.0)
    for n in range(60):
        tokens = 100 + 97 * n
        gap_s = SWITCH_S + STALL_STEPS * step_s + tokens * per_token_s
        copies.observe(tokens, gap_s, step_s, float(n))
    assert copies.takes_s(3000.0) == pytest.approx(3000 * per_token_s, rel=0.3, abs=0.02)


@pytest.mark.parametrize("per_token_s", [4.1e-3, 1.0])
def test_what_gateways_do_not_wait_for_is_not_ordered(per_token_s: float) -> None:
    """Not even for those that go with their KV cache or not at all."""
    harness = cluster(per_token_s=per_token_s)
    harness.load(harness.names[0], ["r"], prompt_tokens=2000)
    harness.core._state.entries["r"].only_kv = True
    assert set(weighed(harness)) == set()
    assert drained(harness).rung == "replay"


@pytest.mark.parametrize("call", ["save", "restore"])
def test_a_copy_that_was_not_answered_bounds_the_next_ones_for_a_while(call: str) -> None:
    harness = cluster(per_token_s=FAST_S)
    first, second = harness.names
    harness.load(first, ["r"], prompt_tokens=2000)
    move = drained(harness)
    assert move.rung == "kv"
    harness.apply(MoveDone("r", 2, second, True, "replay", f"{call} not answered", stall_s=5.0))
    copies = copies_of(harness)
    assert copies.bound_tokens == 2010
    copies.heard(100, "", harness.now + 599.0)
    assert copies.bound_tokens == 2010
    copies.heard(100, "", harness.now + 600.0)
    assert copies.bound_tokens > 9000


def test_other_engines_have_none() -> None:
    (pool,) = cluster("vllm").core._state.pools.values()
    assert pool.stop_copies is None
