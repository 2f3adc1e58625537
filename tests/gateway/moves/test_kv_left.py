"""What a move by rung `kv` leaves behind: neither engine is left to its leases, no timer runs on,
and no gap is reported that nobody saw end."""

import pytest

from moving_request import ALL_COPIED, Moving
from shunter_gateway.ports import TokenChunk
from shunter_gateway.testing import RecordingSink
from shunter_gateway.testing_world import LOST
from shunter_proto.v1 import moves_pb2 as moves


def switched() -> Moving:
    moving = Moving()
    moving.copy()
    moving.engines.pulls[0].report(ALL_COPIED)
    assert not moving.engines.pulls[0].cancelled and len(moving.sink.assigned) == 2
    return moving


@pytest.mark.parametrize("how", ["client leaves", "call is lost"])
def test_what_ends_before_the_first_token_frees_the_destination(how: str) -> None:
    moving = switched()
    if how == "client leaves":
        moving.handle.cancel()
    else:
        moving.world.call_of().fail(LOST)
    assert moving.engines.pulls[0].cancelled
    counts = moving.world.observer.counts
    assert "moved kv" not in counts
    assert counts["aborted finished" if how == "client leaves" else "aborted source_failed"] == 1
    done = moving.report()  # it is there that the request was
    assert (done.moved, done.epoch, done.instance) == (True, 2, moving.destination)
    assert done.stall_ms == 0
    moving.world.settle(20)
    if how == "call is lost":
        moving.finish()
    assert moving.world.clock.waiting == 0


def test_the_first_token_ends_it() -> None:
    moving = switched()
    moving.world.call_of().step(1)
    assert moving.engines.pulls[0].cancelled
    assert moving.world.observer.counts == {"moved kv": 1}
    moving.finish()
    assert moving.world.clock.waiting == 0


def test_an_answer_that_ends_without_another_token_has_moved() -> None:
    moving = switched()
    moving.world.settle(0.2)
    call = moving.world.call_of()
    call.send(TokenChunk(finish_reason="stop"))
    call.end()
    assert moving.engines.pulls[0].cancelled
    assert moving.world.observer.counts == {"moved kv": 1}
    assert moving.report().stall_ms == pytest.approx(200, abs=1)


def test_a_destination_that_says_nothing_is_not_waited_for_longer_than_it_holds() -> None:
    moving = switched()
    moving.world.settle(moving.world.limits.kv_lease_s - 1)
    assert not moving.engines.pulls[0].cancelled
    moving.world.settle(2)
    assert moving.engines.pulls[0].cancelled
    moving.finish()


def test_a_client_that_leaves_as_it_hears_of_the_switch() -> None:
    moving = Moving()
    on_assigned = RecordingSink.on_assigned

    def leave(sink: RecordingSink, instance: str, pool: str) -> None:
        on_assigned(sink, instance, pool)
        moving.handle.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordingSink, "on_assigned", leave)
        moving.copy()
    assert moving.engines.pulls[0].cancelled
    assert len(moving.engines.asked(moves.ReleaseRequest)) == 1
    assert moving.world.engine.live == [] and moving.world.scheduler.ledger == {}
    assert moving.world.clock.waiting == 0


def test_a_prepare_that_nobody_answers_is_overtaken_by_what_withdraws_it() -> None:
    moving = Moving(silent={"Prepare"})
    moving.world.settle(5.1)
    source, destination = moving.engines.asked(moves.AbortRequest)
    assert isinstance(source, moves.AbortRequest) and isinstance(destination, moves.AbortRequest)
    assert (source.call_id, source.epoch) == ("r1-1", 1)
    assert (destination.call_id, destination.epoch) == ("", 2)


def test_a_thaw_is_not_given_up_while_a_channel_backs_off() -> None:
    moving = Moving(refusals={"Commit": moves.REFUSAL_INCOMPLETE}, down={"Abort": 0.8})
    moving.copy()
    moving.world.settle(1.2)
    assert not moving.source.aborted
    assert (moving.report().moved, moving.report().epoch) == (False, 3)
    moving.finish()
    assert moving.world.clock.waiting == 0


def test_a_source_that_cannot_be_reached_is_given_up_after_three_tries() -> None:
    moving = Moving(refusals={"Commit": moves.REFUSAL_INCOMPLETE}, down={"Abort": 60.0})
    moving.copy()
    moving.world.settle(1.6)
    assert moving.source.aborted
    thaws = [one for one in moving.engines.asked(moves.AbortRequest) if getattr(one, "call_id", "")]
    assert len(thaws) == 3
    moving.finish()
