"""That an engine refused a priority is told to the scheduler with each first token from there."""

from shunter_gateway.testing_world import World
from shunter_proto.v1 import scheduler_pb2 as pb


def told(world: World) -> list[bool]:
    events = world.scheduler.sent(pb.FirstToken)
    return [event.unordered for event in events if isinstance(event, pb.FirstToken)]


def test_the_engine_that_answers_is_told_of() -> None:
    world = World()
    for number in range(3):
        world.submit(request_id=f"r{number}")
    addresses = [call.request.address for call in world.engine.calls]
    assert len(set(addresses)) == 3
    world.engine.unordered = {addresses[1]}
    world.run_out(10)
    assert told(world) == [False, True, False]
