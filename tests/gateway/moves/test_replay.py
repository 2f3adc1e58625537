"""Moves: warm the destination, switch, and leave the source alone if anything goes wrong before."""

import pytest

from shunter_gateway.moves.rules import MoveRequest, move_refusal
from shunter_gateway.ports import SamplingParams
from shunter_gateway.request import RequestHandle
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_engines import ScriptedCall, answer_ids, logprob_of
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

UNDISTURBED = answer_ids(PROMPT, 8)


def other(sink: RecordingSink) -> str:
    return next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)


def warm_up(world: World) -> ScriptedCall:
    calls = [call for call in world.engine.live if "-warm" in call.request.request_id]
    assert len(calls) == 1
    return calls[0]


def move_done(world: World) -> pb.MoveDone:
    (event,) = world.scheduler.sent(pb.MoveDone)
    assert isinstance(event, pb.MoveDone)
    return event


def started(world: World, tokens: int = 3) -> tuple[RequestHandle, RecordingSink, str]:
    handle, sink = world.submit()
    world.call_of().step(tokens)
    destination = other(sink)
    world.scheduler.move("r1", destination)
    return handle, sink, destination


def test_source_goes_on_while_the_destination_is_warmed() -> None:
    world = World()
    _, sink, destination = started(world)
    source, warm = world.call_of(), warm_up(world)
    assert warm.request.token_ids == (*PROMPT, *UNDISTURBED[:3])
    assert warm.request.max_tokens == 1
    source.step(2)
    warm.step()
    assert source.aborted
    request = world.call_of().request
    assert request.token_ids == (*PROMPT, *UNDISTURBED[:5])
    assert (request.epoch, request.address) == (2, f"{destination}:1")
    world.settle(0.3)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    done = move_done(world)
    assert done.moved and (done.epoch, done.instance, done.rung) == (2, destination, "replay")
    assert done.stall_ms == pytest.approx(300, abs=1)
    assert world.scheduler.ledger == {}


def test_far_behind_destination_is_warmed_again() -> None:
    world = World()
    _, sink = world.submit(max_tokens=100)
    world.call_of().step(3)
    world.scheduler.move("r1", other(sink))
    world.call_of().step(40)
    warm_up(world).step()
    assert not world.call_of().aborted
    again = warm_up(world)
    assert again.request.output_offset == 43
    again.step()
    world.run_out(120)
    assert sink.token_ids == answer_ids(PROMPT, 100)
    assert move_done(world).moved


def test_failed_warm_up_leaves_the_source_alone() -> None:
    world = World()
    _, sink, _ = started(world)
    warm_up(world).fail(LOST)
    done = move_done(world)
    assert not done.moved and done.epoch == 1 and done.reason == "warm-up failed: connection"
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED and len(sink.assigned) == 1


def test_source_fails_during_the_warm_up() -> None:
    world = World()
    _, sink, _ = started(world)
    warm = warm_up(world)
    world.call_of().fail(LOST)
    assert warm.aborted and not move_done(world).moved
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_destination_fails_after_the_switch() -> None:
    world = World()
    _, sink, destination = started(world)
    warm_up(world).step()
    world.call_of().fail(LOST)
    world.settle()
    done = move_done(world)
    assert done.moved and done.epoch == 2
    (failed,) = world.scheduler.sent(pb.Failed)
    assert isinstance(failed, pb.Failed)
    assert (failed.epoch, failed.instance) == (2, destination)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_answer_that_ends_during_the_warm_up_stays() -> None:
    world = World()
    _, sink, _ = started(world)
    warm = warm_up(world)
    world.call_of().step(5)
    assert warm.aborted and sink.outcome is not None
    assert not move_done(world).moved
    assert world.scheduler.ledger == {}


def test_cancel_during_the_warm_up_frees_both_sides() -> None:
    world = World()
    handle, _, _ = started(world)
    source, warm = world.call_of(), warm_up(world)
    handle.cancel()
    assert source.aborted and warm.aborted
    assert world.scheduler.ledger == {} and world.engine.live == []


def test_move_before_the_first_token_starts_again() -> None:
    world = World()
    _, sink = world.submit()
    destination = other(sink)
    world.scheduler.move("r1", destination)
    assert world.call_of().request.address == f"{destination}:1"
    world.run_out(10)
    done = move_done(world)
    assert done.moved and done.rung == "restart"
    (first,) = world.scheduler.sent(pb.FirstToken)  # its prefill is no longer ahead of others
    assert isinstance(first, pb.FirstToken) and first.epoch == done.epoch
    assert sink.token_ids == UNDISTURBED


def test_stale_move_is_dropped() -> None:
    world = World()
    world.submit()
    world.call_of().step()
    world.scheduler.ledger["r1"] = (9, "chat-0")
    world.scheduler.move("r1", "chat-2")
    assert world.scheduler.sent(pb.MoveDone) == []


def test_seed_is_drawn_once_and_kept() -> None:
    world = World()
    started(world)
    warm_up(world).step()
    seeds = {call.request.sampling.seed for call in world.engine.calls}
    assert len(seeds) == 1 and None not in seeds


def test_suspended_request_waits_and_goes_on() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(3)
    world.scheduler.auto = False
    world.scheduler.suspend("r1")
    world.settle(3)
    assert world.engine.live == []
    submitted = world.scheduler.waiting["r1"]
    assert (submitted.epoch, submitted.output_tokens, submitted.pool) == (2, 3, "chat")
    assert list(submitted.excluded_instances) == []
    assert submitted.suspended
    world.scheduler.heard_at = world.clock.time()
    world.scheduler.assign(submitted, "chat-1")
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_a_new_scheduler_learns_that_it_waits_suspended() -> None:
    world = World()
    world.submit()
    world.call_of().step(3)
    world.scheduler.auto = False
    world.scheduler.suspend("r1")
    twice = pb.SchedulerCommand(suspend=pb.Suspend(request_id="r1", epoch=1))
    world.scheduler.command(twice)  # by one that knows no better: stale
    world.scheduler.events.clear()
    world.dispatcher.on_session()
    (submitted,) = [e for e in world.scheduler.events if isinstance(e, pb.Submitted)]
    assert submitted.suspended and (submitted.epoch, submitted.output_tokens) == (2, 3)
    assert world.scheduler.sent(pb.Running) == []


def test_a_client_may_leave_while_its_request_is_suspended() -> None:
    world = World()
    handle, _ = world.submit()
    world.call_of().step(3)
    world.scheduler.auto = False
    world.scheduler.suspend("r1")
    submitted = world.scheduler.waiting["r1"]
    handle.cancel()
    (finished,) = [e for e in world.scheduler.events if isinstance(e, pb.Finished)]
    assert (finished.epoch, finished.finish_reason) == (2, "cancelled")
    world.scheduler.assign(submitted, "chat-1")
    world.settle(3)
    assert world.engine.live == []


def test_a_suspended_request_goes_on_without_a_scheduler() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(3)
    world.scheduler.auto = False
    world.scheduler.suspend("r1")
    world.scheduler.lose()
    world.settle(30)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_only_the_wait_after_a_suspension_is_marked() -> None:
    world = World()
    world.submit()
    world.call_of().step(3)
    world.scheduler.suspend("r1")
    world.settle()
    world.call_of().step()
    world.call_of().fail(LOST)
    submissions = [e for e in world.scheduler.events if isinstance(e, pb.Submitted)]
    assert [(s.epoch, s.suspended) for s in submissions] == [(1, False), (2, True), (3, False)]


BASE = MoveRequest("a", "b", True, False, True, False, "")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (BASE, ""),
        (MoveRequest("a", "a", True, False, True, False, ""), "already_there"),
        (MoveRequest("a", "b", False, False, True, False, ""), "other_revision"),
        (MoveRequest("a", "b", True, True, True, False, ""), "already_moving"),
        (MoveRequest("a", "b", True, False, True, True, ""), "unknown_token_ids"),
        (MoveRequest("a", "b", True, False, True, False, "guided_decoding"), "guided_decoding"),
        (MoveRequest("a", "b", True, False, False, True, "guided_decoding"), ""),
    ],
)
def test_what_may_move(request_: MoveRequest, reason: str) -> None:
    assert move_refusal(request_) == reason


def test_endless_warm_up_is_given_up() -> None:
    world = World()
    _, sink, _ = started(world)
    warm = warm_up(world)
    world.settle(31)
    assert warm.aborted
    assert move_done(world).reason == "warm-up timed out"
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_second_command_does_not_touch_the_move_under_way() -> None:
    world = World()
    _, sink, destination = started(world)
    world.scheduler.move("r1", destination)
    warm_up(world).step()
    world.run_out(10)
    refused, done = world.scheduler.sent(pb.MoveDone)
    assert isinstance(refused, pb.MoveDone) and isinstance(done, pb.MoveDone)
    assert (refused.moved, refused.reason, done.moved) == (False, "already_moving", True)
    assert sink.token_ids == UNDISTURBED


def test_logprobs_stay_with_their_tokens_up_to_a_stop_string() -> None:
    """The stop string begins before the switch and ends after it, in the middle of a chunk."""
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    stop = plain.text[3:6]
    world = World()
    _, sink = world.submit(stop=(stop,), sampling=SamplingParams(temperature=0.0, logprobs=0))
    world.call_of().step(5)
    world.scheduler.move("r1", other(sink))
    warm_up(world).step()
    world.call_of().step(3)
    assert sink.outcome is not None and move_done(world).moved
    assert (sink.text, sink.outcome.stop_reason) == (plain.text[:3], stop)
    assert sink.token_ids == UNDISTURBED[:6]
    for delta in sink.deltas:
        assert list(delta.logprobs) == [logprob_of(id_) for id_ in delta.token_ids]
