"""A drain's deadline: what its engine's death would not end goes on elsewhere."""

from dataclasses import replace
from typing import Any

import pytest

from shunter_gateway.ports import SamplingParams, TokenChunk
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_engines import TEXT_LEVEL, TOKEN_LEVEL, answer_ids
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

PENALISED = SamplingParams(temperature=0.0, frequency_penalty=0.5)


def world_of_counted_draws() -> World:
    """Engines that lose the state of penalties across a replay, as vLLM and SGLang do."""
    world = World()
    world.engine.capabilities = replace(TOKEN_LEVEL, output_offset=False)
    return world


def end_drain(world: World, sink: RecordingSink, reason: str = "") -> None:
    epoch, home = world.scheduler.ledger["r1"]
    assert home == sink.assigned[-1]
    reason = reason or f"drain deadline of {home}"
    cancel = pb.Cancel(request_id="r1", epoch=epoch, reason=reason)
    world.scheduler.command(pb.SchedulerCommand(cancel=cancel))


def finish_reasons(world: World) -> list[str]:
    return [e.finish_reason for e in world.scheduler.sent(pb.Finished)]  # type: ignore[union-attr]


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("submitted", [{}, {"sampling": PENALISED}], ids=["plain", "penalties"])
def test_it_goes_on_elsewhere(submitted: dict[str, Any], tokens: int) -> None:
    world = world_of_counted_draws()
    _, sink = world.submit(**submitted)
    source = world.call_of()
    if tokens:
        source.step(tokens)
    end_drain(world, sink)
    assert source.aborted
    again = world.scheduler.sent(pb.Submitted)[-1]
    assert isinstance(again, pb.Submitted)
    assert (again.epoch, list(again.excluded_instances)) == (2, sink.assigned)
    world.run_out(10)
    assert sink.token_ids == answer_ids(PROMPT, 8) and sink.error is None
    assert len(set(sink.assigned)) == 2
    assert finish_reasons(world) == ["length"] and world.scheduler.ledger == {}
    assert world.observer.counts["retried drained"] == 1


def test_so_does_what_could_not_move_for_ids_that_are_not_known() -> None:
    world = World()
    _, sink = world.submit(max_tokens=20)
    world.call_of().step(2)
    world.call_of().send(TokenChunk(token_ids=[9], text="🚂", output_tokens=5))
    end_drain(world, sink)
    world.settle()
    call = world.call_of()
    assert call.request.token_ids == (*PROMPT, *answer_ids(PROMPT, 2))
    call.send(TokenChunk(token_ids=[9], text="🚂", output_tokens=3))
    call.end(TokenChunk(token_ids=[4], text="!", output_tokens=4, finish_reason="stop"))
    assert sink.text.endswith("🚂!") and sink.outcome is not None


def test_a_move_that_is_under_way_is_given_up() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().step(3)
    world.scheduler.move(
        "r1", next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)
    )
    end_drain(world, sink)
    world.run_out(10)
    assert sink.token_ids == answer_ids(PROMPT, 8)
    assert world.scheduler.ledger == {} and world.engine.live == []


def test_an_answer_that_has_ended_already_ends() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().send(TokenChunk(token_ids=[1], finish_reason="stop"))
    end_drain(world, sink)
    assert sink.outcome is not None and sink.outcome.finish_reason == "stop"
    assert world.engine.live == []


@pytest.mark.parametrize(
    ("submitted", "able"),
    [({"unmovable_reason": "guided_decoding"}, TOKEN_LEVEL), ({}, TEXT_LEVEL)],
    ids=["guided decoding", "text"],
)
def test_what_dies_with_its_engine_ends_with_a_clean_error(
    submitted: dict[str, Any], able: Any
) -> None:
    world = World()
    world.engine.capabilities = able
    _, sink = world.submit(**submitted)
    world.call_of().step(3)
    end_drain(world, sink)
    assert sink.error is not None and sink.error.code == "cancelled"
    assert finish_reasons(world) == ["cancelled"] and world.engine.live == []


def test_another_reason_ends_it() -> None:
    world = World()
    _, sink = world.submit()
    end_drain(world, sink, "test")
    assert sink.error is not None and finish_reasons(world) == ["cancelled"]


def test_a_drain_is_no_failure_of_an_engine() -> None:
    """The pool allows three of those."""
    world = World(instances={f"chat-{i}": "chat" for i in range(6)})
    _, sink = world.submit()
    world.call_of().step(2)
    end_drain(world, sink)
    for _ in range(3):
        world.settle()
        world.call_of().fail(LOST)
    world.run_out(10)
    assert sink.error is None and sink.token_ids == answer_ids(PROMPT, 8)
    assert len(set(sink.assigned)) == 5
    assert len(world.scheduler.sent(pb.Failed)) == 3


def test_without_a_scheduler_it_does_not_come_back_to_the_drained_instance() -> None:
    world = World(instances={"chat-0": "chat", "chat-1": "chat"})
    _, sink = world.submit()
    world.call_of().step(3)
    others = [world.submit(request_id=f"o{i}")[1] for i in range(3)]
    world.scheduler.auto = False
    end_drain(world, sink)
    world.scheduler.lose()
    world.settle(2)
    assert len(set(sink.assigned)) == 2 and len(others) == 3
