"""A client that leaves at any moment of a move: both engines are freed, and it is reported once."""

from collections.abc import Callable

import pytest

from shunter_gateway.request import Delta, RequestHandle
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_world import SPEC, World
from shunter_proto.v1 import scheduler_pb2 as pb

DESTINATION_TOKENS = 2


class Moved:
    """One move, step by step; the client may leave before each step."""

    def __init__(self, sink: RecordingSink | None = None) -> None:
        self.world = World()
        self.sink = sink or RecordingSink()
        self.handle = self.world.dispatcher.submit(SPEC, self.sink)
        self.world.settle()
        self.source = self.world.call_of()

    @property
    def steps(self) -> list[Callable[[], object]]:
        return [
            lambda: self.source.step(3),
            self.command,
            lambda: self.source.step(1),
            self.warmed,
            lambda: self.world.settle(0.2),
            *[lambda: self.world.engine.calls[-1].step(1)] * DESTINATION_TOKENS,
        ]

    def command(self) -> None:
        taken = self.sink.assigned[0]
        destination = "chat-0" if taken != "chat-0" else "chat-1"
        target = next(i for i in self.world.scheduler.topology.instances if i.name == destination)
        move = pb.Move(
            request_id="r1", epoch=1, destination=destination, address=target.address, rung="replay"
        )
        self.world.scheduler.command(pb.SchedulerCommand(move=move))

    def warmed(self) -> None:
        self.world.engine.calls[-1].step()


STEPS = len(Moved().steps)


@pytest.mark.parametrize("leave_before", range(STEPS + 1))
def test_client_leaves_in_mid_move(leave_before: int) -> None:
    moved = Moved()
    world = moved.world
    for step in moved.steps[:leave_before]:
        step()
    received = list(moved.sink.deltas)
    moved.handle.cancel()
    moved.handle.cancel()
    assert world.engine.live == [] and world.scheduler.ledger == {}
    calls = len(world.engine.calls)
    for step in moved.steps[leave_before:]:
        step()
    world.settle(5)
    assert len(world.engine.calls) == calls
    assert moved.sink.deltas == received and not moved.sink.ended
    (finished,) = world.scheduler.sent(pb.Finished)
    assert isinstance(finished, pb.Finished) and finished.finish_reason == "cancelled"
    assert finished.output_tokens == len(moved.sink.token_ids)
    commanded = leave_before >= 2
    assert len(world.scheduler.sent(pb.MoveDone)) == commanded


class LeavingSink(RecordingSink):
    """Leaves from within a call: when the second instance is named, or at the n-th delta."""

    def __init__(self, at_delta: int = 0) -> None:
        super().__init__()
        self.handle: RequestHandle | None = None
        self._at_delta = at_delta

    def on_assigned(self, instance: str, pool: str) -> None:
        super().on_assigned(instance, pool)
        if len(self.assigned) == 2 and not self._at_delta:
            self._leave()

    def on_delta(self, delta: Delta) -> None:
        super().on_delta(delta)
        if len(self.deltas) == self._at_delta:
            self._leave()

    def _leave(self) -> None:
        assert self.handle is not None
        self.handle.cancel()


@pytest.mark.parametrize("at_delta", [0, 2, 3])
def test_client_leaves_from_within_a_call(at_delta: int) -> None:
    """With the switch; on a token before the warm-up ends; on the first one after."""
    sink = LeavingSink(at_delta)
    moved = Moved(sink)
    sink.handle, world = moved.handle, moved.world
    for step in moved.steps:
        step()
    world.settle(1)
    assert world.engine.live == [] and world.scheduler.ledger == {}
    assert len(sink.deltas) == (at_delta or 2) and not sink.ended
    assert len(world.scheduler.sent(pb.MoveDone)) == 1
