"""The rung `kv` by saved slots: what the client gets, who decodes, and what is reported."""

from typing import Any

import pytest

from moving_request import UNDISTURBED, Started
from shunter_gateway.moves.ports import SlotReply
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

REFUSED = SlotReply(refusal="status 400", bars="briefly")


class Moving(Started):
    """It is told to move by rung `kv`, between llama-servers."""

    def __init__(self, **changes: Any) -> None:
        world = World(kv_transport="layout", engine_type="llamacpp")
        self.slots = world.slots
        for name, value in changes.items():
            setattr(self.slots, name, value)
        super().__init__(world)
        self.home = self.sink.assigned[0]

    def move(self, settle_s: float = 0.0) -> None:
        self.world.scheduler.move("r1", self.destination, rung="kv")
        self.world.settle(settle_s)

    def report(self) -> pb.MoveDone:
        event = self.world.scheduler.sent(pb.MoveDone)[-1]
        assert isinstance(event, pb.MoveDone)
        return event

    def finish(self) -> None:
        super().finish()
        self.left_nothing()

    def left_nothing(self) -> None:
        assert self.slots.files == {} and self.slots.taken == set()


def test_the_destination_goes_on_in_the_restored_cache() -> None:
    moving = Moving()
    moving.move()
    request = moving.world.call_of().request
    assert moving.source.aborted and moving.world.engine.live == [moving.world.call_of()]
    assert [call for call, _ in moving.slots.asked] == ["find", "choose", "save", "restore"]
    assert (request.epoch, request.address) == (2, f"{moving.destination}:1")
    assert request.token_ids == (*PROMPT, *UNDISTURBED[:3])
    assert moving.slots.restored == request.token_ids
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.epoch, done.reason) == (True, "kv", 2, "")


def test_what_the_source_had_generated_unread_is_generated_again() -> None:
    moving = Moving()
    moving.source.generate(2)
    moving.move()
    assert len(moving.slots.restored or ()) == len(PROMPT) + 5
    assert moving.world.call_of().request.token_ids == (*PROMPT, *UNDISTURBED[:3])
    moving.finish()


def test_a_client_that_does_not_read_moves_too() -> None:
    moving = Moving()
    moving.handle.pause()
    moving.move()
    assert moving.world.call_of().paused
    moving.handle.resume()
    moving.finish()


@pytest.mark.parametrize("call", ["find", "choose"])
def test_what_is_refused_before_the_stop_goes_by_replay(call: str) -> None:
    moving = Moving(refusals={call: SlotReply(refusal="call_not_found")})
    moving.move()
    assert not moving.source.over
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung) == (True, "replay")
    assert done.reason == f"{call} refused: call_not_found"


@pytest.mark.parametrize("call", ["find", "choose"])
def test_what_is_not_answered_before_the_stop_goes_by_replay(call: str) -> None:
    moving = Moving(silent={call})
    moving.move()
    moving.source.step(1)
    moving.world.settle(5.1)
    moving.finish()
    assert (moving.report().moved, moving.report().rung) == (True, "replay")


def test_where_no_slot_is_idle_the_request_stays() -> None:
    moving = Moving(refusals={"choose": SlotReply(refusal="no_slot")})
    moving.move()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.epoch, done.reason) == (False, 1, "choose refused: no_slot")
    assert len(moving.world.engine.calls) == 1


@pytest.mark.parametrize("call", ["save", "restore"])
def test_what_is_refused_after_the_stop_goes_on_at_the_source(call: str) -> None:
    moving = Moving(refusals={call: REFUSED})
    first_tokens = len(moving.world.scheduler.sent(pb.FirstToken))
    moving.move()
    request = moving.world.call_of().request
    assert moving.source.aborted
    assert (request.epoch, request.address) == (2, f"{moving.home}:1")
    done = moving.report()
    assert (done.moved, done.epoch, done.instance) == (False, 2, moving.home)
    assert done.reason == f"{call} refused: status 400"
    assert moving.world.observer.counts[f"aborted {done.reason}"] == 1
    moving.finish()
    assert len(moving.world.scheduler.sent(pb.FirstToken)) == first_tokens


def test_servers_that_refuse_a_file_are_not_asked_again() -> None:
    moving = Moving(refusals={"restore": REFUSED})
    moving.move()
    moving.world.call_of().step(1)
    moving.move()
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.reason) == (True, "replay", "slots_refused")
    assert [call for call, _ in moving.slots.asked].count("restore") == 1


def test_a_slot_that_another_request_got_bars_nobody() -> None:
    moving = Moving(refusals={"restore": SlotReply(refusal="slot_taken")})
    moving.move()
    assert moving.slots.pairs_barred == set()
    moving.finish()


def test_a_source_that_does_not_answer_is_left() -> None:
    moving = Moving(silent={"save"})
    moving.move()
    assert moving.world.engine.live == []
    moving.world.settle(5.1)
    request = moving.world.call_of().request
    assert (request.epoch, request.address) == (2, f"{moving.destination}:1")
    moving.finish()
    done = moving.report()
    assert (done.moved, done.rung, done.reason) == (True, "replay", "save not answered")


def test_a_destination_that_does_not_answer_is_not_gone_to() -> None:
    moving = Moving(silent={"restore"})
    moving.move()
    moving.world.settle(5.1)
    assert moving.world.call_of().request.address == f"{moving.home}:1"
    moving.finish()
    assert moving.report().reason == "restore not answered"


@pytest.mark.parametrize("call", ["find", "choose", "save", "restore"])
def test_a_client_that_leaves_leaves_nothing(call: str) -> None:
    moving = Moving()
    moving.slots.before[call] = moving.handle.cancel
    moving.move(0.1)
    assert moving.world.engine.live == [] and moving.world.scheduler.ledger == {}
    moving.left_nothing()


def test_a_client_may_leave_as_its_request_goes_on_at_the_source() -> None:
    moving = Moving(refusals={"restore": REFUSED})

    class Leaving(list[str]):
        def append(self, instance: str) -> None:
            super().append(instance)
            moving.handle.cancel()

    moving.sink.assigned = Leaving(moving.sink.assigned)
    moving.move(0.1)
    assert moving.world.engine.live == [] and moving.world.scheduler.ledger == {}
    assert len(moving.world.scheduler.sent(pb.MoveDone)) == 1
    moving.left_nothing()


@pytest.mark.parametrize("call", ["find", "choose"])
def test_a_source_that_dies_before_the_stop_is_recovered_from(call: str) -> None:
    moving = Moving()
    moving.slots.before[call] = lambda: moving.source.fail(LOST)
    moving.move(0.1)
    moving.finish()
    assert moving.report().reason == "source_failed"


def test_an_answer_that_ends_in_between_ends() -> None:
    moving = Moving()
    moving.slots.before["choose"] = lambda: moving.source.step(5, finish=False)
    moving.move()
    assert moving.report().reason == "choose refused: finished"
    moving.source.end()
    moving.finish()


def test_a_saved_slot_of_another_request_is_not_restored() -> None:
    moving = Moving(saved=lambda call: (9, 9, 9, 9, 9))
    moving.move()
    assert moving.report().reason == "save refused: other_request"
    assert moving.slots.restored is None
    moving.finish()
