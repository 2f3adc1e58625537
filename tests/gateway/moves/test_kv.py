"""The rung `kv`: what the client gets, who owns, and what is reported, whatever goes wrong."""

import pytest

from moving_request import ALL_COPIED, COPIED, UNDISTURBED, Moving
from shunter_gateway.ports import TokenChunk
from shunter_gateway.testing_kv import LEASE
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import moves_pb2 as moves
from shunter_proto.v1 import scheduler_pb2 as pb


def test_the_destination_goes_on_with_the_lease() -> None:
    moving = Moving()
    assert not moving.source.aborted and len(moving.engines.asked(moves.FreezeRequest)) == 0
    moving.source.step(1)
    assert set(moving.world.expected) == {f"{moving.destination}:1"}
    moving.copy()
    request = moving.world.call_of().request
    assert moving.source.aborted
    assert (request.epoch, request.kv_lease) == (2, LEASE)
    assert request.address == f"{moving.destination}:1"
    assert request.token_ids == (*PROMPT, *UNDISTURBED[:4])
    (release,) = moving.engines.asked(moves.ReleaseRequest)
    assert isinstance(release, moves.ReleaseRequest) and release.epoch == 2
    moving.world.settle(0.3)
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.epoch, done.reason) == (True, "kv", 2, "")
    assert done.stall_ms == pytest.approx(300, abs=1)


def test_what_was_generated_before_the_freeze_is_read_first() -> None:
    moving = Moving()
    tail = moving.source.generate(2)
    moving.copy()
    assert moving.engines.asked(moves.CommitRequest) == []
    moving.source.send(TokenChunk(token_ids=tail))
    moving.world.settle(0.1)
    assert moving.world.call_of().request.token_ids == (*PROMPT, *UNDISTURBED[:5])
    moving.finish()


def test_a_stream_that_does_not_bring_the_rest_keeps_the_source() -> None:
    moving = Moving()
    tail = moving.source.generate(2)
    moving.copy()
    moving.world.settle(1.2)
    moving.source.send(TokenChunk(token_ids=tail))
    done = moving.report()
    assert (done.moved, done.epoch, done.reason) == (False, 3, "took too long")
    moving.finish()


def test_a_far_stage_is_followed_by_another() -> None:
    moving = Moving()
    moving.engines.pulls[0].report(moves.PullReport(stage=1, tokens=100, source_tokens=150))
    assert moving.engines.asked(moves.FreezeRequest) == []
    moving.copy()
    assert len(moving.engines.asked(moves.FreezeRequest)) == 1
    moving.finish()


@pytest.mark.parametrize("call", ["Offer", "Prepare"])
def test_a_refusal_before_the_freeze_falls_back_to_replay(call: str) -> None:
    moving = Moving(refusals={call: moves.REFUSAL_BUSY})
    warm = moving.world.engine.calls[-1]
    assert "-warm" in warm.request.request_id
    warm.step()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.epoch) == (True, "replay", 2)
    assert done.reason == f"{call.lower()} refused: busy"
    assert moving.world.observer.counts[f"aborted {done.reason}"] == 1


def test_a_broken_copy_falls_back_to_replay() -> None:
    moving = Moving()
    moving.engines.pulls[0].report(None)
    moving.world.settle()
    aborts = moving.engines.asked(moves.AbortRequest)
    assert len(aborts) == 2  # both sides are told
    assert "-warm" in moving.world.engine.calls[-1].request.request_id


def test_an_endless_copy_falls_back_to_replay() -> None:
    moving = Moving()
    moving.world.settle(31)
    assert moving.engines.pulls[0].cancelled
    assert "-warm" in moving.world.engine.calls[-1].request.request_id


@pytest.mark.parametrize("call", ["Freeze", "Commit"])
def test_a_refusal_from_the_freeze_on_thaws_the_source(call: str) -> None:
    moving = Moving(refusals={call: moves.REFUSAL_FINISHED})
    moving.copy()
    done = moving.report()
    assert (done.moved, done.rung, done.epoch) == (False, "kv", 3)
    (thaw, _) = moving.engines.asked(moves.AbortRequest)
    assert isinstance(thaw, moves.AbortRequest)
    assert (thaw.epoch, thaw.call_id) == (3, "r1-1")
    assert not moving.source.aborted
    moving.finish()


def test_after_a_thaw_it_can_move_again() -> None:
    moving = Moving(refusals={"Commit": moves.REFUSAL_INCOMPLETE})
    moving.copy()
    moving.engines.refusals.clear()
    moving.world.scheduler.move("r1", moving.destination, rung="kv")
    moving.world.settle()
    moving.copy()
    assert moving.world.call_of().request.epoch == 4
    offers = moving.engines.asked(moves.OfferRequest)
    assert [o.epoch for o in offers if isinstance(o, moves.OfferRequest)] == [1, 3]
    moving.finish()


def test_the_destination_is_left_to_end_the_copy_once_it_owns() -> None:
    """That it is open says that this gateway lives, and brings its generate call."""
    moving = Moving()
    moving.copy()
    assert not moving.engines.pulls[0].cancelled
    moving.engines.pulls[0].report(ALL_COPIED)
    moving.engines.pulls[0].report(None)
    moving.finish()
    assert moving.report().moved


@pytest.mark.parametrize("phase", ["Offer", "Prepare", "Freeze", "Commit", "copy"])
@pytest.mark.parametrize("how", ["cancel", "source dies"])
def test_the_request_ends_in_each_phase(phase: str, how: str) -> None:
    moving = Moving(silent={phase})
    if phase not in ("Offer", "Prepare", "copy"):
        moving.copy()
    if how == "cancel":
        moving.handle.cancel()
    else:
        moving.source.fail(LOST)
    moving.world.settle(4)
    assert not moving.report().moved
    if phase != "Offer":
        aborts = moving.engines.asked(moves.AbortRequest)
        assert any(isinstance(a, moves.AbortRequest) and not a.call_id for a in aborts)
    if how == "cancel":
        assert moving.world.engine.live == [] and not moving.sink.ended
        assert moving.world.scheduler.ledger == {}
    else:
        moving.finish()


def test_a_stop_string_in_the_tail_ends_the_request_where_it_is() -> None:
    plain = World()
    _, undisturbed = plain.submit()
    plain.run_out(10)
    world = World(kv_transport="layout")
    _, sink = world.submit(stop=(undisturbed.text[3:5],))
    source = world.call_of()
    source.step(3)
    destination = next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)
    world.scheduler.move("r1", destination, rung="kv")
    world.settle()
    tail = source.generate(2)
    world.engine_moves.pulls[-1].report(COPIED)
    world.settle()
    source.send(TokenChunk(token_ids=tail))
    world.settle(0.1)
    assert sink.outcome is not None and sink.text == undisturbed.text[:3]
    assert world.engine.live == [] and world.scheduler.ledger == {}


def test_what_nobody_reads_is_replayed() -> None:
    """Its stream would not bring what was generated before the freeze."""
    world = World(kv_transport="layout")
    handle, sink = world.submit()
    world.call_of().step(3)
    handle.pause()
    world.scheduler.move(
        "r1", next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned), rung="kv"
    )
    world.engine.calls[-1].step()
    handle.resume()
    world.run_out(10)
    (done,) = world.scheduler.sent(pb.MoveDone)
    assert isinstance(done, pb.MoveDone)
    assert (done.moved, done.rung, done.reason) == (True, "replay", "client_paused")
    assert sink.token_ids == UNDISTURBED


def test_instances_of_other_layouts_are_replayed() -> None:
    world = World(kv_transport="layout")
    world.scheduler.topology.instances[2].kv_transport = "other"
    world.scheduler.command(pb.SchedulerCommand(topology=world.scheduler.topology))
    world.submit()
    world.call_of().step(3)
    assert world.scheduler.ledger["r1"][1] != "chat-2"
    world.scheduler.move("r1", "chat-2", rung="kv")
    warm = world.engine.calls[-1]
    assert "-warm" in warm.request.request_id and world.engine_moves.requests == []
    warm.step()
    world.run_out(10)
    (done,) = world.scheduler.sent(pb.MoveDone)
    assert isinstance(done, pb.MoveDone)
    assert (done.rung, done.reason) == ("replay", "other_layout")


def test_a_destination_without_memory_is_not_replayed_to_either() -> None:
    moving = Moving(refusals={"Prepare": moves.REFUSAL_NO_MEMORY})
    done = moving.report()
    assert (done.moved, done.epoch, done.reason) == (False, 1, "prepare refused: no_memory")
    moving.finish()
