"""Drains: no new work; what runs is moved a few at a time, the rest runs to the deadline."""

from dataclasses import replace

import pytest

from shunter_api.testing import make_pool
from shunter_scheduler.core.ledger import Load
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Move, Reject
from shunter_scheduler.domain.events import (
    DrainCancelled,
    DrainRequested,
    Failed,
    Finished,
    FirstToken,
    GatewayLost,
    MoveDone,
    Progress,
    Running,
    Submitted,
)
from shunter_scheduler.domain.explanation import Moved
from shunter_scheduler.domain.status import DrainStatus


def loaded(count: int, instances: int = 2, **pool: object) -> CoreHarness:
    """All requests run on the first instance and have begun to answer."""
    values = make_instances(instances)
    harness = CoreHarness(values[:1], pools=[make_pool("chat", spec=pool)])
    for i in range(count):
        harness.start(f"r{i}")
        harness.apply(Progress(f"r{i}", 1, 10 + i))
    harness.configure(values)
    for value in values[1:]:
        harness.observe(value.name)
    return harness


def drain(harness: CoreHarness, deadline_at: float = 100.0) -> list[Decision]:
    return harness.after(DrainRequested("chat-h100-0", deadline_at))


def done(move: Move) -> MoveDone:
    return MoveDone(move.request_id, move.epoch + 1, move.destination, True, move.rung)


def progress_of(harness: CoreHarness) -> DrainStatus:
    status = harness.core.drain_status("chat-h100-0")
    assert status is not None
    return status


def test_a_drain_moves_everything_a_few_at_a_time() -> None:
    harness = loaded(5)
    moves = only(Move, drain(harness))
    moved: list[str] = []
    while moves:
        assert len(moves) <= 2
        assert {(m.source, m.destination, m.rung) for m in moves} == {
            ("chat-h100-0", "chat-h100-1", "replay")
        }
        harness.check_books()
        moved += [m.request_id for m in moves]
        moves = only(Move, harness.after(*map(done, moves)))
    assert sorted(moved) == [f"r{i}" for i in range(5)]
    assert progress_of(harness) == DrainStatus("chat-h100-0", 0, 5, 0, 0, True)
    states = {i.name: (i.state, i.running) for i in harness.core.status(0.0).instances}
    assert states == {"chat-h100-0": ("drained", 0), "chat-h100-1": ("ready", 5)}
    assert harness.core.status(0.0).moved_total == 5
    harness.check_books()


def test_a_moved_request_goes_on_under_its_new_epoch() -> None:
    harness = loaded(1)
    (move,) = only(Move, drain(harness))
    harness.apply(done(move), Progress("r0", 2, 50), Finished("r0", 1, 60, "stop"))
    explained = harness.core.explain("r0", 0.0)
    assert explained is not None
    assert (explained.state, explained.output_tokens) == ("running", 50)
    harness.apply(Finished("r0", 2, 60, "stop"))
    harness.check_books()
    assert harness.loads()["chat-h100-1"].requests == 0


def test_explain_says_what_a_move_took() -> None:
    harness = loaded(1)
    (move,) = only(Move, drain(harness))
    ordered = harness.core.explain("r0", 0.0)
    assert ordered is not None and ordered.decisions[-1].moved is None
    harness.apply(MoveDone("r0", 2, move.destination, True, "kv", "", 0.014, 12_300_000))
    explained = harness.core.explain("r0", 0.0)
    assert explained is not None
    assert [d.kind for d in explained.decisions] == [d.kind for d in ordered.decisions]
    assert explained.decisions[-1].moved == Moved("kv", 0.014, 12_300_000)


def test_explain_says_why_a_move_went_by_another_rung() -> None:
    harness = loaded(1)
    (move,) = only(Move, drain(harness))
    reason = "offer refused: busy"
    harness.apply(MoveDone("r0", 2, move.destination, True, "replay", reason))
    explained = harness.core.explain("r0", 0.0)
    assert explained is not None
    last = explained.decisions[-1]
    assert (last.kind, last.winner) == ("move", move.destination)
    assert last.reason == f"moved by replay: {reason}"


def test_no_new_work_while_draining_and_again_after_undrain() -> None:
    harness = loaded(0)
    drain(harness)
    assert {harness.assign(f"n{i}").instance for i in range(4)} == {"chat-h100-1"}
    harness.apply(DrainCancelled("chat-h100-0"))
    assert "chat-h100-0" in {harness.assign(f"m{i}").instance for i in range(4)}
    assert harness.core.drain_status("chat-h100-0") is None


def test_requests_that_have_not_started_go_first_by_restart() -> None:
    harness = loaded(3)
    harness.apply(DrainRequested("chat-h100-1", 100.0))
    harness.assign("fresh", unmovable_reason="n>1")
    harness.apply(DrainCancelled("chat-h100-1"))
    moves = only(Move, drain(harness))
    assert (moves[0].request_id, moves[0].rung) == ("fresh", "restart")
    harness.apply(done(moves[0]), FirstToken("fresh", 2, 0.1))
    harness.check_books()
    assert harness.loads()["chat-h100-1"].prefilling == len(moves) - 1


def test_an_answer_never_goes_on_with_another_model_revision() -> None:
    """It ends where it began; what has not begun may begin elsewhere."""
    harness = loaded(2)
    first, second = harness.instances
    harness.configure((first, replace(second, revision="next")))
    harness.observe(second.name)
    assert drain(harness, deadline_at=10.0) == []
    harness.apply(DrainRequested(second.name, 100.0), DrainCancelled(first.name))
    harness.assign("fresh")
    harness.apply(DrainCancelled(second.name))
    (move,) = only(Move, drain(harness, deadline_at=10.0))
    assert (move.request_id, move.rung) == ("fresh", "restart")
    harness.apply(Finished("r0", 1, 60, "stop"), done(move))
    harness.now = 10.0
    (cancel,) = only(Cancel, harness.decide())
    assert cancel.request_id == "r1"
    harness.check_books()


def test_what_cannot_move_runs_to_the_deadline_and_is_then_cancelled() -> None:
    harness = loaded(0)
    harness.apply(DrainRequested("chat-h100-1", 100.0))
    harness.start("stuck", unmovable_reason="n>1")
    harness.apply(DrainCancelled("chat-h100-1"))
    assert drain(harness, deadline_at=10.0) == []
    harness.now = 9.9
    assert harness.decide() == []
    assert harness.core.next_wake(harness.now) == 10.0
    harness.now = 10.0
    (cancel,) = only(Cancel, harness.decide())
    assert cancel.request_id == "stuck" and "chat-h100-0" in cancel.reason
    harness.now = 11.0
    assert harness.decide() == [], "once"
    harness.apply(Finished("stuck", 1, 3, "cancelled"))
    progress = progress_of(harness)
    assert (progress.done, progress.finished, progress.failed) == (True, 0, 1)


@pytest.mark.parametrize("lost", [False, True])
def test_a_gateway_that_comes_back_past_the_deadline_is_told_again(lost: bool) -> None:
    """Whether the scheduler has given its requests up meanwhile or not."""
    harness = loaded(1, instances=1)
    assert drain(harness, deadline_at=10.0) == []
    harness.now = 10.0
    assert len(only(Cancel, harness.decide())) == 1
    assert harness.decide() == [], "said once to a gateway that hears"
    request = harness.core._state.entries["r0"].request
    if lost:
        harness.apply(GatewayLost(request.gateway_id))
    (cancel,) = only(Cancel, harness.after(Running(request, "chat-h100-0")))
    assert cancel.request_id == "r0"


def test_a_move_that_fails_is_tried_elsewhere_after_a_pause() -> None:
    harness = loaded(1, instances=3)
    (first,) = only(Move, drain(harness))
    refused = MoveDone("r0", 1, "chat-h100-0", False, "", "no room")
    assert harness.after(refused) == []
    harness.check_books()
    wake = harness.core.next_wake(harness.now)
    assert wake is not None
    harness.now = wake
    (second,) = only(Move, harness.decide())
    assert {first.destination, second.destination} == {"chat-h100-1", "chat-h100-2"}


def test_no_destination_with_room_no_move_until_there_is_one() -> None:
    harness = loaded(1)
    harness.observe("chat-h100-1", kv_capacity_tokens=900)
    assert drain(harness) == []
    assert progress_of(harness).remaining == 1
    harness.observe("chat-h100-1", kv_capacity_tokens=90_000)
    assert only(Move, harness.decide())


def test_a_destination_keeps_its_watermark() -> None:
    harness = loaded(4)
    harness.observe("chat-h100-1", kv_capacity_tokens=2500)
    moves = only(Move, drain(harness))
    assert len(moves) == 2  # 1,100 tokens each, 2,450 under the watermark
    assert harness.after(*map(done, moves)) == []
    assert harness.loads()["chat-h100-1"].kv_tokens <= 2450


def test_mode_off_moves_nothing() -> None:
    harness = loaded(2, migration={"mode": "Off"})
    assert drain(harness) == []


def test_a_gateway_that_says_nothing_gives_the_destination_back() -> None:
    harness = loaded(1, instances=3)
    (move,) = only(Move, drain(harness, deadline_at=1e4))
    assert harness.loads()[move.destination].requests == 1
    harness.now = 121.0
    harness.decide()
    harness.check_books()
    assert harness.loads()[move.destination].requests == 0
    late = done(move)
    harness.apply(late)
    harness.check_books()
    assert harness.loads()[move.destination].requests == 1, "the gateway's record decides"


def test_source_dies_while_a_move_is_under_way() -> None:
    harness = loaded(1)
    drain(harness)
    harness.apply(Failed("r0", 1, "chat-h100-0", "connection"))
    harness.check_books()
    assert all(load.requests == 0 for load in harness.loads().values())
    (again,) = only(Assign, harness.submit("r0", epoch=2, output_tokens=10, pool="chat"))
    assert again.instance == "chat-h100-1"


def test_destination_leaves_while_a_move_is_under_way() -> None:
    harness = loaded(1)
    drain(harness)
    harness.configure(harness.instances[:1])
    harness.check_books()
    assert harness.loads()["chat-h100-0"].requests == 1
    explained = harness.core.explain("r0", 0.0)
    assert explained is not None and explained.state == "running"


def test_a_waiting_request_that_is_reported_as_moved_runs_and_is_placed_only_once() -> None:
    """A gateway that reports what the scheduler has not decided is believed; once its request ends,
    nothing may place it again."""
    harness = CoreHarness(
        make_instances(1), settings=CoreSettings(head_room=HeadRoom(max_requests=1))
    )
    harness.assign("first")
    harness.submit("r-0")
    harness.apply(Submitted(make_request("r-1")))  # not looked at yet
    for request_id in ("r-0", "r-1"):
        harness.apply(MoveDone(request_id, 2, "chat-h100-0", True, "replay"))
    harness.check_books()
    assert harness.core.status(0.0).pools[0].waiting == 0
    harness.apply(*(Finished(i, 2, 5, "stop") for i in ("first", "r-0", "r-1")))
    assert harness.decide() == []
    assert harness.loads() == {"chat-h100-0": Load()}
    assert harness.core._state.instances["chat-h100-0"].requests == {}
    drain(harness)
    harness.configure(())  # what is gone may not be looked for
    harness.check_books()


def test_a_drain_without_a_destination_looks_again_once_a_second_whatever_else_happens() -> None:
    harness = loaded(2, instances=1)
    drain(harness)
    wakes = set()
    for step in range(1, 301):
        harness.now = step / 100
        harness.apply(Progress("r0", 1, 20 + step))
        assert harness.decide() == []
        wakes.add(harness.core.next_wake(harness.now))
    assert wakes <= {1.0, 2.0, 3.0, 4.0}
    assert len(harness.core._state.timers) <= 2, "the next look, and the drain's deadline"
    harness.configure(make_instances(2))
    harness.observe("chat-h100-1")
    harness.now = 4.0
    assert len(only(Move, harness.decide())) == 2


def of_two_revisions() -> CoreHarness:
    old, new = make_instances(2)
    return CoreHarness([replace(old, revision="a"), replace(new, revision="b")])


@pytest.mark.parametrize("gone", [False, True])
def test_an_answer_whose_engine_died_goes_on_under_its_own_revision_only(gone: bool) -> None:
    harness = of_two_revisions()
    first = harness.start("r0")
    harness.apply(Failed("r0", 1, first.instance, "connection", 5))
    if gone:
        harness.configure([i for i in harness.instances if i.name != first.instance])
    again = {"epoch": 2, "output_tokens": 5, "excluded_instances": (first.instance,)}
    decisions = harness.submit("r0", pool="chat", **again)
    if gone:
        (reject,) = only(Reject, decisions)
        assert (reject.reason, "revision" in reject.message) == ("no_instance", True)
    else:
        (assign,) = only(Assign, decisions)
        assert assign.instance == first.instance
    harness.check_books()


def test_an_answer_that_a_new_scheduler_was_told_of_before_its_engine_keeps_its_revision() -> None:
    harness = of_two_revisions()
    old, new = harness.instances
    harness.configure([new])
    harness.apply(Running(make_request("r0", pool="chat", output_tokens=5), old.name))
    harness.configure([old, new])
    harness.observe(old.name)
    harness.apply(Failed("r0", 1, old.name, "connection", 5))
    again = {"epoch": 2, "output_tokens": 5, "excluded_instances": (old.name,)}
    (assign,) = only(Assign, harness.submit("r0", pool="chat", **again))
    assert assign.instance == old.name
    harness.check_books()


def test_what_has_not_answered_goes_to_any_revision() -> None:
    harness = of_two_revisions()
    first = harness.assign("r0")
    harness.apply(Failed("r0", 1, first.instance, "connection", 0))
    (assign,) = only(Assign, harness.submit("r0", epoch=2, excluded_instances=(first.instance,)))
    assert assign.instance != first.instance


def test_a_move_says_of_each_instance_why_it_was_not_the_destination() -> None:
    harness = loaded(1, instances=3)
    (move,) = only(Move, drain(harness))
    harness.apply(MoveDone("r0", move.epoch, move.source, False, move.rung, "full"))
    harness.now = 2.0
    (again,) = only(Move, harness.decide())
    explained = harness.core.explain("r0", harness.now)
    assert explained is not None
    because = {c.instance: c.excluded_because for c in explained.decisions[-1].candidates}
    assert because == {
        "chat-h100-0": "source of the move",
        move.destination: "refused the move",
        again.destination: "",
    }


@pytest.mark.parametrize(
    ("source", "destination", "mode", "rung"),
    [
        ("f32 b16", "f32 b16", "Auto", "kv"),
        ("f32 b16", "f16 b16", "Auto", "replay"),
        ("f32 b16", "", "Auto", "replay"),
        ("f32 b16", "f32 b16", "Replay", "replay"),
    ],
)
def test_engines_that_say_so_copy_their_kv_caches(
    source: str, destination: str, mode: str, rung: str
) -> None:
    harness = loaded(1, migration={"mode": mode})
    harness.observe("chat-h100-0", kv_transport=source)
    harness.observe("chat-h100-1", kv_transport=destination)
    (move,) = only(Move, drain(harness))
    assert move.rung == rung


def test_a_source_that_goes_on_under_a_new_epoch_can_be_ordered_about_again() -> None:
    harness = loaded(1, instances=3)
    (move,) = only(Move, drain(harness))
    harness.apply(MoveDone("r0", 3, "elsewhere", False, "kv", "took too long"))  # not its owner
    assert harness.after(MoveDone("r0", 3, move.source, False, "kv", "took too long")) == []
    harness.check_books()
    wake = harness.core.next_wake(harness.now)
    assert wake is not None
    harness.now = wake
    (again,) = only(Move, harness.decide())
    assert (again.epoch, again.source) == (3, move.source)
    assert again.destination != move.destination


def test_a_source_that_goes_on_under_a_new_epoch_is_followed_though_the_move_is_given_up() -> None:
    harness = loaded(1)
    (move,) = only(Move, drain(harness))
    harness.now += harness.core._state.settings.moves.timeout_s
    harness.decide()
    assert harness.core._state.entries["r0"].state == "running", "nothing was heard in time"
    harness.apply(MoveDone("r0", 3, move.source, False, "kv", "took too long"))
    harness.apply(Progress("r0", 3, 500))
    assert harness.core._state.entries["r0"].output_tokens == 500
    harness.check_books()


def test_what_was_in_mid_move_at_the_deadline_is_cancelled_once_its_gateway_says_where_it_is() -> (
    None
):
    """The Cancel of the deadline named an epoch that the gateway had left."""
    harness = loaded(1)
    (move,) = only(Move, drain(harness, deadline_at=10.0))
    harness.now = 10.0
    (cancel,) = only(Cancel, harness.decide())
    assert cancel.epoch == 1
    stays = MoveDone("r0", 3, move.source, False, "kv", "commit not answered")
    (cancel,) = only(Cancel, harness.after(stays))
    assert (cancel.request_id, cancel.epoch) == ("r0", 3)
    assert harness.decide() == []
    harness.apply(Finished("r0", 3, 10, "cancelled"))
    assert progress_of(harness).done


def test_what_arrives_past_the_deadline_of_its_new_instance_is_cancelled_there() -> None:
    harness = loaded(1)
    (move,) = only(Move, drain(harness, deadline_at=100.0))
    assert only(Cancel, harness.after(DrainRequested(move.destination, 5.0))) == []
    harness.now = 5.0
    assert only(Cancel, harness.decide()) == []
    harness.now = 6.0
    (cancel,) = only(Cancel, harness.after(done(move)))
    assert (cancel.request_id, cancel.epoch) == ("r0", move.epoch + 1)
