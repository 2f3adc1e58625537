"""Hand-overs: at the first token under any policy of moves, and again where they had to wait."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.testing import make_pool
from shunter_scheduler.core.planner.testing import a10_costs
from shunter_scheduler.core.settings import CoreSettings, Moves
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Decision, Move
from shunter_scheduler.domain.events import (
    Finished,
    FirstToken,
    MoveDone,
    Progress,
    Running,
)

ROLES = {"prefill": "Prefill", "decode": "Decode", "slow": "Decode", "any": "Any"}


def harness(
    counts: dict[str, int],
    *,
    transport: str = "rdma",
    policy: Any = "drain-only",
    limit: int = 8,
    slow: bool = False,
    gpus: dict[str, str] | None = None,
    **spec: Any,
) -> CoreHarness:
    profiles = [
        {"name": n, "accelerator": (gpus or {}).get(n, "h100"), "role": ROLES[n]} for n in counts
    ]
    migration = {"maxConcurrentPerInstance": limit, **spec}
    pool = make_pool("chat", spec={"profiles": profiles, "migration": migration})
    values = [
        replace(value, kv_transport=transport)
        for profile, count in counts.items()
        for value in make_instances(count, profile=profile)
    ]
    more: dict[str, Any] = {"profile_costs": a10_costs} if slow else {}
    chosen = CoreSettings(moves=Moves(policy=policy))
    return CoreHarness(values, pools=[pool], settings=chosen, **more)


def begin(core: CoreHarness, request_id: str, **fields: Any) -> list[Decision]:
    """What is decided once its first token is there."""
    core.start(request_id, **fields)
    return core.decide()


def hand_over(core: CoreHarness, request_id: str, **fields: Any) -> Move:
    (move,) = only(Move, begin(core, request_id, **fields))
    return move


def done(core: CoreHarness, move: Move, moved: bool = True, reason: str = "") -> list[Decision]:
    where = move.destination if moved else move.source
    epoch = move.epoch + moved
    return core.after(MoveDone(move.request_id, epoch, where, moved, move.rung, reason))


@pytest.mark.parametrize("policy", ["drain-only", "llumnix", "predicted-gain"])
def test_at_the_first_token_a_request_moves_on(policy: str) -> None:
    core = harness({"prefill": 1, "decode": 1}, policy=policy)
    move = hand_over(core, "r1")
    assert (move.source, move.destination) == ("chat-prefill-0", "chat-decode-0")
    assert (move.reason, move.rung) == ("hand-over", "kv")
    assert done(core, move) == []
    loads = core.loads()
    assert (loads["chat-prefill-0"].requests, loads["chat-decode-0"].requests) == (0, 1)
    assert loads["chat-decode-0"].prefilling == 0
    core.check_books()


def test_the_explanation_has_the_destinations_and_why_not_the_source() -> None:
    core = harness({"prefill": 1, "decode": 2})
    move = hand_over(core, "r1")
    found = core.core.explain("r1", core.now)
    assert found is not None
    record = found.decisions[-1]
    assert record.kind == "move" and record.winner == move.destination
    assert record.reason == "hand-over of chat-prefill-0, by kv"
    assert record.policy == "predicted-cost" and record.score_unit == "s"
    terms = {c.instance: dict(c.terms) for c in record.candidates}
    assert terms[move.destination]["decode"] > 0
    assert terms[move.destination]["prefill"] < 0.02  # its KV is copied
    source = next(c for c in record.candidates if c.instance == move.source)
    assert source.excluded_because == "prefills only (role Prefill)"


def test_what_is_copied_saves_no_prefill_at_its_destination() -> None:
    """Else slow instances, where a prefill would take longest, were the best to go to."""
    core = harness({"prefill": 1, "slow": 1, "decode": 1}, gpus={"slow": "l4"})
    assert hand_over(core, "r1", prompt_tokens=8000).destination == "chat-decode-0"


def test_without_a_transport_it_is_replayed() -> None:
    for transport, mode in (("", "Auto"), ("rdma", "Replay")):
        core = harness({"prefill": 1, "decode": 1}, transport=transport, mode=mode)
        assert hand_over(core, "r1").rung == "replay"


def test_what_decodes_elsewhere_stays() -> None:
    core = harness({"any": 1, "prefill": 1, "decode": 1})
    core.observe("chat-prefill-0", healthy=False)
    core.start("r1")
    assert only(Move, core.decide()) == []
    plain = CoreHarness()
    plain.start("r1")
    assert only(Move, plain.decide()) == []


def test_the_cheapest_destination_takes_it() -> None:
    """The one with the fewest requests, of equal ones."""
    core = harness({"prefill": 1, "decode": 3})
    went = []
    for n in range(6):
        move = hand_over(core, f"r{n}")
        done(core, move)
        went.append(move.destination)
    assert sorted(went) == sorted([f"chat-decode-{n}" for n in range(3)] * 2)


def test_where_nobody_has_room_it_goes_on_and_is_tried_again() -> None:
    core = harness({"prefill": 1, "decode": 1})
    core.observe("chat-decode-0", healthy=False)
    assert only(Move, begin(core, "r1", max_output_tokens=400)) == []
    assert core.core._state.planner.held_over == {"r1": None}
    core.observe("chat-decode-0")
    core.now += 0.5
    (move,) = only(Move, core.decide())
    assert move.destination == "chat-decode-0"
    done(core, move)
    core.apply(Finished("r1", 2, 50, "stop"))
    core.now += 1.0
    core.decide()
    assert core.core.next_wake(core.now) is None or not core.core._state.planner.hand_over_armed


def test_an_instance_takes_part_in_as_many_moves_as_it_may() -> None:
    core = harness({"prefill": 1, "decode": 2}, limit=2)
    moves = [hand_over(core, f"r{n}") for n in range(2)]
    assert only(Move, begin(core, "r2")) == []
    (next_one,) = only(Move, done(core, moves[0]))
    assert next_one.request_id == "r2"
    core.check_books()


def test_a_destination_that_refuses_is_left_out_until_all_have() -> None:
    core = harness({"prefill": 1, "decode": 2})
    move = hand_over(core, "r1", max_output_tokens=0)
    assert only(Move, done(core, move, moved=False, reason="no_room")) == []
    core.now += 1.1
    (second,) = only(Move, core.decide())
    assert second.destination != move.destination
    done(core, second, moved=False, reason="no_room")
    core.now += 1.1
    (third,) = only(Move, core.decide())
    assert third.destination == move.destination
    core.check_books()


def test_what_ends_sooner_than_it_moves_stays() -> None:
    core = harness({"prefill": 1, "decode": 1}, slow=True)
    assert only(Move, begin(core, "short", prompt_tokens=6000, max_output_tokens=8)) == []
    assert hand_over(core, "long", prompt_tokens=1000, max_output_tokens=400).request_id == "long"


def test_what_cannot_move_stays_for_good() -> None:
    core = harness({"prefill": 1, "decode": 1})
    assert only(Move, begin(core, "r1", unmovable_reason="n_above_one")) == []
    assert core.core._state.planner.held_over == {}


def test_replays_take_a_share_of_a_destinations_time() -> None:
    core = harness({"prefill": 1, "decode": 1}, transport="")
    first = hand_over(core, "r1", prompt_tokens=8000, max_output_tokens=400)
    assert only(Move, begin(core, "r2", prompt_tokens=8000, max_output_tokens=400)) == []
    done(core, first)
    core.now += 5.0
    (second,) = only(Move, core.decide())
    assert second.request_id == "r2"


def test_another_revision_takes_nothing_over() -> None:
    core = harness({"prefill": 1, "decode": 2})
    values = [
        replace(value, revision="new" if value.name == "chat-decode-0" else "old")
        for value in core.instances
    ]
    core.configure(values)
    for value in values:
        core.observe(value.name)
    assert hand_over(core, "r1").destination == "chat-decode-1"


def test_after_a_scheduler_restart_what_decodes_on_a_prefill_instance_goes() -> None:
    core = harness({"prefill": 1, "decode": 1})
    request = make_request("r1", output_tokens=20, max_output_tokens=400)
    (move,) = only(Move, core.after(Running(request, "chat-prefill-0")))
    assert move.destination == "chat-decode-0"


def test_a_role_that_is_new_moves_what_runs() -> None:
    core = harness({"any": 1, "decode": 1})
    core.start("r1", max_output_tokens=400)
    core.apply(Progress("r1", 1, 10))
    assert core.decide() == []
    names = [("any", "Prefill"), ("decode", "Decode")]
    profiles = [{"name": n, "accelerator": "h100", "role": role} for n, role in names]
    core.configure(pools=[make_pool("chat", spec={"profiles": profiles})])
    (move,) = only(Move, core.decide())
    assert (move.source, move.destination) == ("chat-any-0", "chat-decode-0")


def test_moves_of_balance_never_bring_answers_to_a_prefill_instance() -> None:
    """Decode instances are loaded, the prefill instance idles: nothing moves there."""
    core = harness({"prefill": 1, "decode": 1}, policy="predicted-gain", slow=True)
    for n in range(12):
        core.apply(
            Running(
                make_request(f"r{n}", prompt_tokens=900, output_tokens=50, max_output_tokens=800),
                "chat-decode-0",
            )
        )
    for _ in range(6):
        core.now += 0.5
        core.apply(*(Progress(f"r{n}", 1, 60 + int(10 * core.now)) for n in range(12)))
        assert only(Move, core.decide()) == []


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["prompt", "first", "done", "refused", "ended", "toggle", "tick"]),
            st.integers(0, 7),
        ),
        max_size=60,
    )
)
def test_books_are_right_whatever_comes(steps: Sequence[tuple[str, int]]) -> None:
    """And every move leads from an instance that prefills to one that may decode."""
    core = harness({"prefill": 2, "decode": 1, "any": 1}, limit=2)
    names = [value.name for value in core.instances]
    placed: dict[str, int] = {}
    begun: set[str] = set()
    moving: dict[str, Move] = {}
    up = set(names)
    for number, (kind, which) in enumerate(steps):
        if kind == "prompt":
            core.assign(f"r{number}", max_output_tokens=300)
            placed[f"r{number}"] = 1
        elif kind == "toggle" and len(up - {names[which % 4]}) > 0:
            up ^= {names[which % 4]}
            core.observe(names[which % 4], healthy=names[which % 4] in up)
        elif kind == "tick":
            core.now += 0.6
        elif kind in ("done", "refused") and moving:
            move = moving.pop(sorted(moving)[which % len(moving)])
            if kind == "done":
                placed[move.request_id] = move.epoch + 1
            collect(core, moving, done(core, move, moved=kind == "done", reason="no_room"))
        elif kind in ("first", "ended") and placed:
            request_id = sorted(placed)[which % len(placed)]
            if kind == "first" and request_id not in begun:
                begun.add(request_id)
                core.apply(FirstToken(request_id, placed[request_id], 0.1))
            elif kind == "ended":
                core.apply(Finished(request_id, placed.pop(request_id), 20, "stop"))
                moving.pop(request_id, None)
        collect(core, moving, core.decide())
        core.check_books()


def collect(core: CoreHarness, moving: dict[str, Move], decisions: Sequence[Decision]) -> None:
    for move in only(Move, decisions):
        assert move.source.startswith("chat-prefill") and "prefill" not in move.destination
        assert move.request_id not in moving
        moving[move.request_id] = move
