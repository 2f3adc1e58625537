"""The rung `kv` where calls are lost: they are sent again, or nobody can tell what was done."""

import pytest

from moving_request import Moving
from shunter_gateway.testing_kv import LEASE
from shunter_proto.v1 import moves_pb2 as moves
from shunter_proto.v1 import scheduler_pb2 as pb


@pytest.mark.parametrize("call", ["Freeze", "Commit"])
def test_a_lost_call_is_sent_again_while_the_client_waits(call: str) -> None:
    moving = Moving(lost={call})
    moving.copy()
    assert moving.world.call_of() is moving.source
    moving.world.settle(0.6)
    assert moving.world.call_of().request.kv_lease == LEASE
    moving.finish()
    asked = [type(r).__name__.removesuffix("Request") for r in moving.engines.requests]
    assert asked.count(call) == 2 and moving.report().moved


def test_a_lost_thaw_is_sent_again() -> None:
    moving = Moving(refusals={"Commit": moves.REFUSAL_INCOMPLETE}, lost={"Abort"})
    moving.copy()
    moving.world.settle(0.6)
    assert not moving.report().moved
    moving.finish()
    assert moving.sink.assigned == [moving.sink.assigned[0]]


def test_nothing_is_sent_again_once_the_request_has_ended() -> None:
    moving = Moving(silent={"Freeze"})
    moving.copy()
    moving.world.settle(0.6)
    asked = len(moving.engines.asked(moves.FreezeRequest))
    moving.handle.cancel()
    moving.world.settle(4)
    assert len(moving.engines.asked(moves.FreezeRequest)) == asked == 2


def test_a_freeze_that_is_undone_is_not_sent_again() -> None:
    moving = Moving(silent={"Freeze"})
    moving.copy()
    moving.engines.pulls[0].report(None)
    moving.world.settle(6)
    assert len(moving.engines.asked(moves.FreezeRequest)) == 1
    assert (moving.report().moved, moving.report().epoch) == (False, 3)
    moving.finish()


def test_an_unanswered_commit_is_asked_after() -> None:
    moving = Moving(silent={"Commit"})
    moving.copy()
    assert moving.world.call_of() is moving.source
    moving.world.settle(5.2)
    assert moving.world.call_of().request.kv_lease == LEASE
    moving.finish()
    assert moving.report().moved


def test_where_nobody_can_tell_the_journal_decides_for_the_source() -> None:
    moving = Moving(silent={"Commit", "State"})
    moving.copy()
    moving.world.settle(22)
    done = moving.report()
    assert (done.moved, done.epoch) == (False, 3)
    moving.finish()
    assert moving.engines.committed is not None  # in vain: its lease ends


def test_a_source_that_may_not_have_thawed_is_given_up() -> None:
    moving = Moving(silent={"Freeze", "Abort"})
    moving.copy()
    moving.world.settle(22)
    assert moving.source.aborted
    (failed,) = moving.world.scheduler.sent(pb.Failed)
    assert isinstance(failed, pb.Failed) and failed.reason == "timeout"
    assert not moving.report().moved
    moving.finish()
