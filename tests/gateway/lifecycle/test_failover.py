"""An engine fails: the request goes on elsewhere, and the client sees none of it."""

from shunter_gateway.lifecycle_events import rejection
from shunter_gateway.ports import EngineFailure
from shunter_gateway.request import WorkflowStage
from shunter_gateway.testing_engines import answer_ids
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

UNDISTURBED = answer_ids(PROMPT, 8)


def test_undisturbed_request_gets_its_tokens_and_exact_counts() -> None:
    world = World()
    _, sink = world.submit()
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    assert sink.outcome is not None
    assert (sink.outcome.finish_reason, sink.outcome.output_tokens) == ("length", 8)
    assert sink.outcome.prompt_tokens == len(PROMPT)
    assert world.scheduler.ledger == {}
    assert world.dispatcher.in_flight == 0


def test_failure_in_mid_answer_replays_on_another_instance() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(3)
    world.call_of().fail(LOST)
    world.settle()
    request = world.call_of().request
    assert request.token_ids == (*PROMPT, *UNDISTURBED[:3])
    assert (request.output_offset, request.max_tokens, request.epoch) == (3, 5, 2)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    assert len(sink.assigned) == 2 and sink.assigned[0] != sink.assigned[1]
    again = world.scheduler.sent(pb.Submitted)[1]
    assert isinstance(again, pb.Submitted)
    assert (again.epoch, again.output_tokens, again.pool) == (2, 3, "chat")
    assert list(again.excluded_instances) == sink.assigned[:1]


def test_failure_before_the_first_token_restarts_unpinned() -> None:
    world = World()
    world.engine.next_failure = LOST
    _, sink = world.submit()
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    again = world.scheduler.sent(pb.Submitted)[1]
    assert isinstance(again, pb.Submitted)
    assert again.pool == "" and again.output_tokens == 0


def test_tokens_of_an_old_owner_are_dropped() -> None:
    world = World()
    _, sink = world.submit()
    old = world.call_of()
    old.step(2)
    old.fail(LOST)
    world.settle()
    old.over = False
    old.step(3)
    old.fail(LOST)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    assert len(world.scheduler.sent(pb.Failed)) == 1


def test_retries_end_with_a_clean_error() -> None:
    world = World()
    _, sink = world.submit()
    for _ in range(4):
        world.call_of().fail(LOST)
        world.settle(10)
    assert sink.error is not None
    assert (sink.error.status, sink.error.code) == (502, "engine_failed")
    assert world.scheduler.ledger == {} and world.dispatcher.in_flight == 0


def test_only_instance_is_tried_again_after_a_pause() -> None:
    world = World(instances={"chat-0": "chat"})
    _, sink = world.submit()
    world.call_of().step(2)
    world.call_of().fail(LOST)
    world.settle()
    assert world.engine.live == []
    world.settle(1)
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_engine_4xx_goes_to_the_client_and_is_not_retried() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().fail(EngineFailure("client", "bad", False, 400, b'{"error":{}}'))
    world.settle(5)
    assert sink.error is not None
    assert (sink.error.status, sink.error.body) == (400, b'{"error":{}}')
    assert len(world.engine.calls) == 1
    assert world.scheduler.ledger == {}


def test_text_level_request_fails_once_it_has_begun() -> None:
    world = World()
    _, sink = world.submit(prompt_token_ids=None)
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().step()
    world.call_of().fail(LOST)
    world.settle(5)
    assert sink.deltas[0].raw == b'{"n":1}'
    assert sink.error is not None and sink.error.status == 502
    assert len(world.engine.calls) == 2


def test_cancel_aborts_the_engine_at_once() -> None:
    world = World()
    handle, sink = world.submit()
    call = world.call_of()
    handle.cancel()
    assert call.aborted
    handle.cancel()
    finished = world.scheduler.sent(pb.Finished)
    assert [event.finish_reason for event in finished if isinstance(event, pb.Finished)] == [
        "cancelled"
    ]
    assert not sink.ended


def test_all_tokens_there_but_not_the_end_is_an_end() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(8, finish=False)
    world.call_of().fail(LOST)
    world.settle()
    assert sink.outcome is not None and sink.outcome.finish_reason == "length"
    assert len(world.engine.calls) == 1


def test_slow_client_pauses_the_engine_and_every_later_one() -> None:
    world = World()
    handle, _ = world.submit()
    handle.pause()
    assert world.call_of().paused
    world.call_of().fail(LOST)
    world.settle()
    assert world.call_of().paused
    handle.resume()
    assert not world.call_of().paused


def test_deadline_ends_the_request() -> None:
    world = World()
    _, sink = world.submit(deadline_s=2.0)
    call = world.call_of()
    world.settle(2.2)
    assert sink.error is not None and sink.error.status == 504
    assert call.aborted and world.scheduler.ledger == {}


def test_what_the_scheduler_is_told_of_a_workflow() -> None:
    """Durations go on running while a request waits to be asked for."""
    world = World()
    stage = WorkflowStage("w", "b", ("c",), deadline_s=10.0)
    world.submit(workflow=stage)
    (first,) = world.scheduler.sent(pb.Submitted)
    assert isinstance(first, pb.Submitted)
    assert (first.workflow.id, first.workflow.stage) == ("w", "b")
    assert list(first.workflow.stages_left) == ["c"]
    assert first.workflow.deadline_in_ms == 10_000
    world.settle(2.0)
    world.call_of().fail(LOST)
    world.settle()
    again = world.scheduler.sent(pb.Submitted)[-1]
    assert isinstance(again, pb.Submitted) and again.epoch == 2
    assert 7_000 < again.workflow.deadline_in_ms <= 8_000


def test_a_tenant_beyond_its_tokens_is_told_when_to_come_again() -> None:
    reject = pb.Reject(reason="rate_limited", message="used up", retry_after_ms=2500)
    error = rejection(reject)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 2.5)


def test_4xx_to_a_continuation_is_the_engine_s_fault() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(3)
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().fail(EngineFailure("client", "no such model", False, 404, b"{}"))
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED
    assert world.observer.counts == {"retried connection": 1, "retried protocol": 1}


def test_overloaded_engine_hands_the_request_on() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().fail(EngineFailure("overloaded", "busy", True, 429, b"", 7.0))
    world.run_out(10)
    assert sink.token_ids == UNDISTURBED


def test_overload_everywhere_is_429_with_retry_after() -> None:
    world = World()
    _, sink = world.submit()
    for _ in range(4):
        world.call_of().fail(EngineFailure("overloaded", "busy", True, 429, b"", 7.0))
        world.settle(20)
    assert sink.error is not None
    assert (sink.error.status, sink.error.retry_after_s) == (429, 7.0)
