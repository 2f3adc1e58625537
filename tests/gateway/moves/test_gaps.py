"""llama-server keeps ids of tokens within a character to itself: what becomes of such an answer as
it moves, and that a move which fails never costs the client its answer."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shunter_gateway.moves.ports import SlotReply
from shunter_gateway.ports import SamplingParams, TokenChunk
from shunter_gateway.testing import LetterDecoders
from shunter_gateway.testing_engines import ScriptedCall, answer_ids
from shunter_gateway.testing_world import LOST, PROMPT, World
from shunter_proto.v1 import scheduler_pb2 as pb

ANSWER = answer_ids(PROMPT, 8)
CHARACTER = "é"  # made of the three tokens after the first three
GREEDY = SamplingParams(temperature=0.0)
REFUSED = SlotReply(refusal="slot_taken")


class Gapped:
    """A request of 8 tokens that has 6 of them: three and a character, whose last id was told.
    `known` is what the gateway's tokenizer makes of that character."""

    def __init__(self, known: Sequence[int] = (), **submitted: Any) -> None:
        decoders = LetterDecoders(pieces={CHARACTER: list(known)})
        self.world = World(kv_transport="layout", engine_type="llamacpp", decoders=decoders)
        self.slots = self.world.slots
        _, self.sink = self.world.submit(**submitted)
        self.source: ScriptedCall = self.world.call_of()
        self.source.step(3)
        self.home = self.sink.assigned[0]
        self.destination = next(f"chat-{i}" for i in range(3) if f"chat-{i}" != self.home)

    def bring_character(self) -> None:
        ids = self.source.generate(3)
        self.source.send(TokenChunk(token_ids=ids[-1:], text=CHARACTER, output_tokens=6))

    def move(self, rung: str = "kv", reason: str = "imbalance", settle_s: float = 0.0) -> None:
        self.world.scheduler.move("r1", self.destination, rung, reason)
        self.world.settle(settle_s)

    def report(self) -> pb.MoveDone:
        event = self.world.scheduler.sent(pb.MoveDone)[-1]
        assert isinstance(event, pb.MoveDone)
        return event

    def told(self) -> list[int]:
        """The answer so far, as the call in flight was given it."""
        ids = self.world.call_of().request.token_ids
        assert ids is not None
        return list(ids[len(PROMPT) :])


def gapped(known: Sequence[int] = (), **submitted: Any) -> Gapped:
    moving = Gapped(known, **submitted)
    moving.bring_character()
    return moving


# ---------------------------------------------------------------- ids that the text tells


@pytest.mark.parametrize(
    ("changes", "at_home"),
    [
        ({"refusals": {"save": REFUSED}}, True),
        ({"refusals": {"restore": REFUSED}}, True),
        ({"silent": {"restore"}}, True),
        ({"silent": {"save"}}, False),
        ({"saved": lambda call: (9, 9, 9, 9, 9)}, True),
        ({"saved": lambda call: call.token_ids[:-3]}, False),  # moves: nothing has to be read
    ],
    ids=["save", "restore", "restore silent", "save silent", "another's file", "short file"],
)
def test_a_copy_that_fails_costs_no_character(changes: dict[str, Any], at_home: bool) -> None:
    """Sampled: the next engine draws another token than the first would have."""
    moving = gapped(ANSWER[3:6])
    for name, value in changes.items():
        setattr(moving.slots, name, value)
    moving.move(settle_s=5.2)
    call = moving.world.call_of()
    assert moving.told() == ANSWER[:6]
    assert call.request.address == f"{moving.home if at_home else moving.destination}:1"
    call.end(TokenChunk(token_ids=[1, 2], text="xy", output_tokens=2, finish_reason="length"))
    assert moving.sink.error is None and moving.sink.outcome is not None
    assert moving.sink.text.endswith(CHARACTER + "xy")
    assert moving.sink.outcome.output_tokens == 8


def test_it_moves_by_replay() -> None:
    moving = gapped(ANSWER[3:6])
    moving.move("replay")
    moving.world.run_out(20)
    done = moving.report()
    assert (done.moved, done.rung, done.reason) == (True, "replay", "")
    assert moving.sink.outcome is not None and moving.sink.outcome.output_tokens == 8


def test_it_goes_on_after_the_character_when_its_engine_dies() -> None:
    moving = gapped(ANSWER[3:6])
    moving.source.fail(LOST)
    moving.world.settle()
    assert moving.told() == ANSWER[:6]


@pytest.mark.parametrize(
    "known",
    [(), ANSWER[3:5], [*ANSWER[3:6], 7], [*ANSWER[3:5], ANSWER[5] + 1]],
    ids=["unknown", "too few", "too many", "another end"],
)
def test_ids_that_may_be_others_are_not_taken(known: Sequence[int]) -> None:
    moving = gapped(known)
    moving.source.fail(LOST)
    moving.world.settle()
    assert moving.told() == ANSWER[:3]


# ---------------------------------------------------------------- ids that it does not tell


@pytest.mark.parametrize("rung", ["kv", "replay"])
def test_without_them_a_sampled_answer_stays(rung: str) -> None:
    moving = gapped()
    moving.move(rung)
    assert (moving.report().moved, moving.report().reason) == (False, "unknown_token_ids")
    assert not moving.source.over and moving.slots.asked == []


def test_a_gap_that_opens_before_the_stop_keeps_it_too() -> None:
    moving = Gapped()
    moving.slots.before["choose"] = moving.bring_character
    moving.move()
    assert moving.report().reason == "choose refused: unknown_token_ids"
    assert moving.world.engine.live == [moving.source] and moving.slots.taken == set()


@pytest.mark.parametrize(
    ("reason", "submitted"), [("imbalance", {"sampling": GREEDY}), ("drain", {})]
)
def test_those_that_repeat_and_those_that_have_to_leave_read_them_from_the_file(
    reason: str, submitted: dict[str, Any]
) -> None:
    moving = gapped(**submitted)
    moving.slots.saved = lambda call: call.token_ids[:-1]  # the last is not in the cache yet
    moving.move(reason=reason)
    assert moving.told() == ANSWER[:6]
    moving.world.run_out(30)
    assert moving.report().moved and moving.sink.outcome is not None
    assert moving.sink.outcome.output_tokens == 8


@pytest.mark.parametrize(
    "saved",
    [lambda call: call.token_ids[:-3], lambda call: (9, 9, 9, 9, 9)],
    ids=["too short", "another request's"],
)
def test_a_greedy_one_that_the_file_does_not_help_goes_on_where_it_was(
    saved: Callable[[ScriptedCall], Sequence[int]],
) -> None:
    moving = gapped(sampling=GREEDY)
    moving.slots.saved = saved
    moving.move()
    assert moving.report().reason == "save refused: unknown_token_ids"
    assert moving.world.call_of().request.address == f"{moving.home}:1"
    assert moving.slots.files == {} and moving.slots.taken == set()
