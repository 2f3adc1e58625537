"""Nothing of a request stays behind once it has ended, however it ended."""

import gc
from collections.abc import Callable

import pytest

from shunter_gateway.journal import TokenJournal
from shunter_gateway.lifecycle import RequestLifecycle
from shunter_gateway.ports import EngineFailure
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_world import LOST, World
from shunter_proto.v1 import scheduler_pb2 as pb

KEPT = (RequestLifecycle, TokenJournal, RecordingSink)


def alive() -> int:
    gc.collect()
    return sum(isinstance(found, KEPT) for found in gc.get_objects())


def _finish(world: World) -> None:
    world.run_out(10)


def _move(world: World) -> None:
    world.call_of().step(2)
    _, instance = world.scheduler.ledger["r1"]
    world.scheduler.move("r1", "chat-0" if instance != "chat-0" else "chat-1")
    world.run_out(10)


def _fail_over(world: World) -> None:
    world.call_of().step(2)
    world.call_of().fail(LOST)
    world.run_out(10)


def _fail(world: World) -> None:
    world.call_of().fail(EngineFailure("client", "no", retriable=False))


def _suspend_and_cancel(world: World) -> None:
    world.call_of().step(2)
    world.scheduler.auto = False
    world.scheduler.suspend("r1")
    cancel = pb.Cancel(request_id="r1", epoch=2, reason="test")
    world.scheduler.command(pb.SchedulerCommand(cancel=cancel))


def _expire(world: World) -> None:
    world.settle(2)


ENDS: list[Callable[[World], None]] = [
    _finish, _move, _fail_over, _fail, _suspend_and_cancel, _expire,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_ended_requests_are_freed(end: Callable[[World], None]) -> None:
    world = World()
    before = alive()
    for _ in range(3):
        world.submit(deadline_s=1.0)
        assert alive() > before
        end(world)
        world.scheduler.auto = True
        world.engine.calls.clear()
    assert alive() == before


def test_a_client_that_leaves_keeps_nothing_alive() -> None:
    world = World()
    before = alive()
    handle, sink = world.submit()
    world.call_of().step(2)
    handle.cancel()
    del handle, sink
    world.engine.calls.clear()
    assert alive() == before
