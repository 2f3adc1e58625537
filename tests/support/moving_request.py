"""A request that moves by rung `kv`, between scripted engines."""

from shunter_gateway.request import RequestHandle
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_engines import ScriptedCall, answer_ids
from shunter_gateway.testing_kv import FakeEngineMoves
from shunter_gateway.testing_world import PROMPT, World
from shunter_proto.v1 import moves_pb2 as moves
from shunter_proto.v1 import scheduler_pb2 as pb

UNDISTURBED = answer_ids(PROMPT, 8)
COPIED = moves.PullReport(stage=1, tokens=4, source_tokens=5)
ALL_COPIED = moves.PullReport(stage=2, tokens=6, source_tokens=6, complete=True)


class Started:
    """A request of 8 tokens that has 3 of them, and where it may go."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.handle: RequestHandle
        self.sink: RecordingSink
        self.handle, self.sink = world.submit()
        self.source: ScriptedCall = world.call_of()
        self.source.step(3)
        self.destination = next(
            f"chat-{i}" for i in range(3) if f"chat-{i}" not in self.sink.assigned
        )

    def finish(self) -> None:
        self.world.run_out(30)
        assert self.sink.token_ids == UNDISTURBED
        assert self.world.scheduler.ledger == {} and self.world.engine.live == []


class Moving(Started):
    """It is told to move by rung `kv`."""

    def __init__(self, **changes: object) -> None:
        world = self.between()
        self.engines: FakeEngineMoves = world.engine_moves
        for name, value in changes.items():
            setattr(self.engines, name, value)
        super().__init__(world)
        world.scheduler.move("r1", self.destination, rung="kv")
        world.settle()

    def between(self) -> World:
        """The engines."""
        return World(kv_transport="layout")

    def copy(self) -> None:
        """The first stage ends: Freeze and Commit follow at once."""
        self.engines.pulls[-1].report(COPIED)
        self.world.settle()

    def report(self) -> pb.MoveDone:
        (event,) = self.world.scheduler.sent(pb.MoveDone)
        assert isinstance(event, pb.MoveDone)
        return event
