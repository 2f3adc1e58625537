"""The rules that hold for every move of the planner, whatever triggered it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.testing import make_pool
from shunter_scheduler.core.planner.testing import MOVES, PlannerHarness
from shunter_scheduler.core.settings import HeadRoom, Moves
from shunter_scheduler.core.testing import make_instances, only
from shunter_scheduler.domain.decisions import Move, MovePolicyName
from shunter_scheduler.domain.events import Finished, MoveDone, Progress

# After which so few requests have come lately that dispatch evens nothing out.
QUIET_S = 60.0


def uneven(count: int = 16, **options: object) -> PlannerHarness:
    harness = PlannerHarness(**options)  # type: ignore[arg-type]
    harness.load(harness.names[0], [f"r{i}" for i in range(count)], prompt_tokens=300)
    harness.now += QUIET_S
    return harness


def test_a_loaded_instance_gives_to_a_free_one_and_says_why() -> None:
    harness = uneven()
    moves = harness.plan()
    assert [(m.source, m.destination, m.rung) for m in moves] == [(*harness.names, "kv")]
    (move,) = moves
    assert (move.reason, move.gain_s > 0) == ("imbalance", True)
    explained = harness.core.explain(move.request_id, harness.now)
    assert explained is not None
    record = explained.decisions[-1]
    assert (record.kind, record.policy, record.winner) == (
        "move",
        "predicted-gain",
        move.destination,
    )
    going, staying = record.candidates
    assert (going.instance, staying.instance) == (move.destination, move.source)
    assert going.score_s == pytest.approx(sum(value for _, value in going.terms))
    assert going.score_s == pytest.approx(-move.gain_s) and staying.score_s == 0
    assert {"decode", "others", "copy", "stall"} <= {name for name, _ in going.terms}
    assert record.runner_up == move.source


def test_moves_go_on_until_little_is_left_to_gain_and_then_cease() -> None:
    harness = uneven(moves=replace(MOVES, settle_s=1.0))
    for _ in range(60):
        harness.carry_out(harness.plan())
    counts = [load.requests for load in harness.loads().values()]
    assert sum(counts) == 16 and max(counts) - min(counts) <= 5
    assert [harness.plan() for _ in range(20)] == [[]] * 20


def test_a_constant_even_load_never_moves() -> None:
    harness = PlannerHarness(4)
    for at, name in enumerate(harness.names):
        harness.load(name, [f"r{at}-{i}" for i in range(8)], prompt_tokens=300)
    assert [harness.plan() for _ in range(30)] == [[]] * 30


@pytest.mark.parametrize("policy", ["drain-only", "predicted-gain"])
def test_nothing_moves_where_that_is_off(policy: MovePolicyName) -> None:
    mode = "Off" if policy == "predicted-gain" else "Auto"
    pools = [make_pool("chat", spec={"migration": {"mode": mode}})]
    harness = uneven(pools=pools, moves=replace(MOVES, policy=policy))
    assert harness.plan() == []


def test_without_requests_or_with_one_instance_no_timer_is_set() -> None:
    assert PlannerHarness().core.next_wake(0.0) is None
    harness = uneven(4)
    assert harness.core.next_wake(harness.now) is not None
    for i in range(4):
        harness.apply(Finished(f"r{i}", 1, 20, "stop"))
    harness.plan()
    assert harness.core.next_wake(harness.now) is None
    alone = PlannerHarness(1)
    alone.load(alone.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    assert alone.plan() == []


def test_a_gain_that_does_not_exceed_cost_and_hysteresis_moves_nothing() -> None:
    assert uneven().plan() != []
    assert uneven(moves=replace(MOVES, hysteresis=1000.0)).plan() == []


def test_replay_is_charged_its_prefill_and_kv_is_only_for_auto() -> None:
    pools = [make_pool("chat", spec={"migration": {"mode": "Replay"}})]
    for harness in (uneven(transport=""), uneven(pools=pools)):
        moves = harness.plan()
        assert {move.rung for move in moves} <= {"replay"}
    costly = uneven(transport="", moves=replace(MOVES, hysteresis=0.0))
    cheap = uneven(moves=replace(MOVES, hysteresis=0.0))
    assert sum(m.gain_s for m in costly.plan()) < sum(m.gain_s for m in cheap.plan())


def test_an_unmovable_request_stays_and_so_does_one_that_moved_lately() -> None:
    harness = PlannerHarness()
    ids = [f"r{i}" for i in range(16)]
    harness.load(harness.names[0], ids, prompt_tokens=300, unmovable_reason="guided_decoding")
    assert harness.plan() == []
    harness = uneven(moves=replace(MOVES, settle_s=1000.0))
    moved: list[str] = []
    for _ in range(40):
        moves = harness.plan()
        moved += [m.request_id for m in moves]
        harness.carry_out(moves)
    assert moved and len(set(moved)) == len(moved)


def test_another_model_revision_is_no_destination() -> None:
    first, second = make_instances(2)
    harness = uneven(instances=[first, replace(second, revision="other")])
    assert harness.plan() == []


def test_an_instance_takes_part_in_so_many_moves_at_a_time() -> None:
    pools = [make_pool("chat", spec={"migration": {"maxConcurrentPerInstance": 2}})]
    harness = uneven(pools=pools, count=16, moves=replace(MOVES, kv_bytes_per_s=1e15))
    started = [move for _ in range(10) for move in harness.plan()]
    assert len(started) == 2
    harness.carry_out(started[:1])
    assert len(harness.plan()) == 1


def test_a_link_carries_one_copy_after_the_other() -> None:
    slow = replace(MOVES, kv_bytes_per_s=310 * 524_288 / 3.0)  # a request takes 3 s
    harness = uneven(moves=slow)
    moves = harness.plan()
    assert len(moves) == 1
    harness.carry_out(moves)
    assert [len(harness.plan()) for _ in range(5)] == [0] * 5
    assert sum(len(harness.plan()) for _ in range(5)) == 1


def test_replays_take_a_share_of_the_destination() -> None:
    moves = Moves(policy="predicted-gain", interval_s=0.5, hysteresis=0.0, replay_share=0.01)
    harness = uneven(transport="", moves=moves)  # a prefill of 310 tokens takes 0.07 s
    first = harness.plan()
    assert len(first) == 1
    harness.carry_out(first)
    assert [len(harness.plan()) for _ in range(12)] == [0] * 12
    assert harness.plan(after_s=1.0) != []


def test_a_destination_keeps_its_watermark() -> None:
    """It has the shorter steps, but no memory for any of them."""
    harness = PlannerHarness(head_room=HeadRoom(max_queue_s=1e9))
    first, second = harness.names
    harness.load(second, ["large"], prompt_tokens=8000, output_tokens=4600)
    harness.load(first, [f"r{i}" for i in range(24)], prompt_tokens=10, output_tokens=200)
    assert [harness.plan() for _ in range(10)] == [[]] * 10
    harness.apply(Finished("large", 1, 4700, "stop"))
    harness.now += QUIET_S
    assert [move.destination for move in harness.plan()] == [second]


def test_a_refused_destination_is_not_asked_again_at_once() -> None:
    harness = uneven()
    (move,) = harness.plan()
    harness.apply(MoveDone(move.request_id, 1, move.source, False, "kv", "no room"))
    harness.check_books()
    for _ in range(5):
        again = harness.plan()
        assert move.request_id not in [m.request_id for m in again]
        harness.carry_out(again)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_there_books_stay_exact_and_no_one_is_moved_twice(data: st.DataObject) -> None:
    harness = PlannerHarness(3, moves=replace(MOVES, settle_s=1.0))
    for at, name in enumerate(harness.names):
        count = data.draw(st.integers(0, 10))
        tokens = data.draw(st.integers(10, 500))
        harness.load(name, [f"r{at}-{i}" for i in range(count)], prompt_tokens=tokens)
    under_way: dict[str, Move] = {}
    for _ in range(6):
        for move in harness.plan():
            assert move.request_id not in under_way
            assert move.source != move.destination
            under_way[move.request_id] = move
        for request_id in list(under_way):
            if data.draw(st.booleans()):
                move = under_way.pop(request_id)
                moved = data.draw(st.booleans())
                epoch = move.epoch + moved
                owner = move.destination if moved else move.source
                harness.apply(MoveDone(request_id, epoch, owner, moved, move.rung))
        for request_id, entry in list(harness.core._state.entries.items()):
            harness.apply(Progress(request_id, entry.epoch, entry.output_tokens + 10))
        harness.check_books()


def test_above_saturation_nothing_moves_for_balance() -> None:
    """Requests wait: they get whatever room there is."""
    harness = PlannerHarness(head_room=HeadRoom(max_requests=16, max_queue_s=1e9))
    first, second = harness.names
    harness.load(first, [f"a{i}" for i in range(16)], prompt_tokens=300)
    harness.load(second, [f"b{i}" for i in range(16)], prompt_tokens=30)
    harness.submit("waits", prompt_tokens=300)
    for _ in range(10):
        assert only(Move, harness.plan()) == []


def test_differences_that_dispatch_evens_out_at_once_are_left_to_it() -> None:
    """The very load that moves once fewer requests come."""
    harness = PlannerHarness()
    harness.load(harness.names[0], [f"r{i}" for i in range(16)], prompt_tokens=300)
    assert harness.plan() == []
    assert harness.plan(after_s=QUIET_S) != []


def terms_of(harness: PlannerHarness, move: Move) -> dict[str, float]:
    explained = harness.core.explain(move.request_id, harness.now)
    assert explained is not None
    return dict(explained.decisions[-1].candidates[0].terms)


@pytest.mark.parametrize(("error", "gains"), [(0.3, False), (0.0, True)])
def test_what_is_in_doubt_is_no_gain(error: float, gains: bool) -> None:
    """Between profiles whose times may be off, what the others where it leaves are spared is sure;
    that it goes on faster itself is not."""
    profiles = [
        {"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 2}},
        {"name": "l4", "accelerator": "l4", "replicas": {"min": 1, "max": 2}},
    ]
    pool = make_pool("chat", spec={"profiles": profiles, "scaling": {"returnAfter": "1h"}})
    first, second = make_instances(2)
    harness = uneven(16, instances=[first, replace(second, profile="l4")], pools=[pool])
    for record in harness.core._state.instances.values():
        record.model.decode.error = error
    (move,) = harness.plan()
    assert (terms_of(harness, move).get("decode", 0.0) < 0) == gains


def test_a_move_pays_for_the_cached_prefixes_that_it_drives_out() -> None:
    def gain_s(hit_tokens: int) -> tuple[float, float]:
        harness = uneven(moves=replace(MOVES, hysteresis=0.0))
        (pool,) = harness.core._state.pools.values()
        pool.hits.observe(100_000, 0, hit_tokens)
        (move,) = harness.plan()
        return move.gain_s, terms_of(harness, move).get("cache", 0.0)

    none, half = gain_s(0), gain_s(50_000)
    assert none[1] == 0.0 and half[1] > 0.0
    assert half[0] == pytest.approx(none[0] - half[1], abs=0.02)


def test_an_instance_where_no_move_for_speed_paid_is_left_alone_for_a_while() -> None:
    harness = uneven(10, moves=replace(MOVES, hysteresis=100.0))
    planner = harness.core._state.planner
    assert harness.plan() == []
    looked_at = dict(planner.look_again_at)
    assert set(looked_at) == {harness.names[0]} and min(looked_at.values()) > harness.now
    harness.plan(after_s=0.5)
    assert planner.look_again_at == looked_at
    harness.plan(after_s=3.0)
    assert planner.look_again_at[harness.names[0]] > looked_at[harness.names[0]]
    planner.forget(harness.names[0])
    assert planner.look_again_at == {}
