"""How much of the prompt was cached: of the engine that read it first, or not known."""

from shunter_gateway.edge.job import Shape
from shunter_gateway.edge.render import usage
from shunter_gateway.ports import TokenChunk
from shunter_gateway.request import Outcome
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_world import LOST, World
from shunter_proto.v1 import scheduler_pb2 as pb


def first_tokens(world: World) -> list[int | None]:
    """As they were told to the scheduler."""
    events = [e for e in world.scheduler.sent(pb.FirstToken) if isinstance(e, pb.FirstToken)]
    return [e.cached_tokens if e.HasField("cached_tokens") else None for e in events]


def continued(world: World, first: int | None, second: int | None) -> RecordingSink:
    """Two engines, each of which may tell with its first token what it had cached."""
    _, sink = world.submit()
    world.call_of().send(TokenChunk([1], cached_tokens=first))
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().end(TokenChunk([2], cached_tokens=second, finish_reason="stop"))
    return sink


def test_the_first_engine_tells_of_the_prompt_and_each_of_its_own_call() -> None:
    world = World()
    sink = continued(world, 2, 3)
    assert sink.outcome is not None and sink.outcome.cached_tokens == 2
    assert first_tokens(world) == [2, 3]


def test_what_the_first_engine_did_not_tell_is_not_known() -> None:
    world = World()
    sink = continued(world, None, 3)
    assert sink.outcome is not None and sink.outcome.cached_tokens is None
    assert first_tokens(world) == [None, 3]


def test_an_engine_that_tells_it_last_is_heard() -> None:
    world = World()
    _, sink = world.submit()
    world.call_of().send(TokenChunk([1]))
    world.call_of().end(TokenChunk(cached_tokens=0, finish_reason="stop"))
    assert sink.outcome is not None and sink.outcome.cached_tokens == 0
    assert first_tokens(world) == [None]


def test_usage_leaves_out_what_is_not_known() -> None:
    shape = Shape(kind="completion", request_id="r", model="m", created=0)
    known, unknown = Outcome("stop", 9, 2, 4), Outcome("stop", 9, 2, None)
    assert usage(shape, [known, known])["prompt_tokens_details"] == {"cached_tokens": 8}
    assert "prompt_tokens_details" not in usage(shape, [known, unknown])
