"""Engines that keep some ids to themselves: the known part is replayed, the rest is checked."""

from shunter_gateway.ports import TokenChunk
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_world import LOST, PROMPT, World


def with_gap() -> tuple[World, RecordingSink]:
    """Two known tokens, then one character made of two tokens whose ids are not told."""
    world = World()
    _, sink = world.submit(max_tokens=20)
    call = world.call_of()
    call.send(TokenChunk(token_ids=[1], text="He", output_tokens=1))
    call.send(TokenChunk(token_ids=[2], text="y ", output_tokens=2))
    call.send(TokenChunk(token_ids=[9], text="🚂", output_tokens=5))
    call.send(TokenChunk(token_ids=[4], text="!", output_tokens=6))
    call.fail(LOST)
    world.settle()
    return world, sink


def test_replay_begins_before_the_gap_and_repeats_nothing() -> None:
    world, sink = with_gap()
    call = world.call_of()
    assert call.request.token_ids == (*PROMPT, 1, 2)
    assert call.request.max_tokens == 18
    call.send(TokenChunk(token_ids=[9], text="🚂", output_tokens=3))
    call.send(TokenChunk(token_ids=[4], text="! Go", output_tokens=5))
    call.end(TokenChunk(text="", output_tokens=5, finish_reason="stop"))
    assert sink.text == "Hey 🚂! Go"
    assert sink.outcome is not None and sink.outcome.output_tokens == 7


def test_second_failure_while_repeating_keeps_the_check() -> None:
    world, sink = with_gap()
    world.call_of().send(TokenChunk(token_ids=[9], text="🚂", output_tokens=3))
    world.call_of().fail(LOST)
    world.settle()
    call = world.call_of()
    assert call.request.token_ids == (*PROMPT, 1, 2)
    call.send(TokenChunk(token_ids=[9], text="🚂", output_tokens=3))
    call.send(TokenChunk(token_ids=[4], text="!?", output_tokens=4))
    call.end(TokenChunk(text="", output_tokens=4, finish_reason="stop"))
    assert sink.text == "Hey 🚂!?"


def test_other_text_than_delivered_is_a_clean_error() -> None:
    world, sink = with_gap()
    world.call_of().send(TokenChunk(token_ids=[7], text="🚋", output_tokens=3))
    assert sink.text == "Hey 🚂!"
    assert sink.error is not None and sink.error.code == "replay_mismatch"
    assert world.scheduler.ledger == {} and world.engine.live == []


def test_request_with_unknown_ids_does_not_move() -> None:
    world = World()
    _, sink = world.submit(max_tokens=20)
    world.call_of().send(TokenChunk(token_ids=[9], text="🚂", output_tokens=3))
    destination = next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)
    world.scheduler.move("r1", destination)
    assert world.observer.counts == {"aborted unknown_token_ids": 1}
