"""What cannot be moved says so: to the scheduler, in a metric, and when it is asked to move."""

from dataclasses import replace

import pytest

from shunter_gateway.ports import Capabilities, SamplingParams
from shunter_gateway.testing import LetterDecoders
from shunter_gateway.testing_engines import TEXT_LEVEL, TOKEN_LEVEL
from shunter_gateway.testing_world import LOST, World
from shunter_gateway.topology import Pool
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_text.detokenizer import StreamDecoder

SEEDED = SamplingParams(temperature=0.7, seed=3)
REPEATING = SamplingParams(repetition_penalty=1.1)
PENALISED = SamplingParams(temperature=0.0, frequency_penalty=0.5)


@pytest.mark.parametrize(
    ("changes", "counts_on", "reason"),
    [
        ({}, False, ""),
        ({"sampling": SEEDED}, True, ""),
        ({"sampling": SEEDED}, False, ""),
        ({"sampling": SamplingParams(temperature=0.0, seed=3)}, False, ""),
        ({"sampling": PENALISED}, True, ""),
        ({"sampling": PENALISED}, False, "penalties"),
        ({"sampling": REPEATING}, False, "penalties"),
        ({"unmovable_reason": "guided_decoding"}, True, "guided_decoding"),
        ({"prompt_token_ids": None}, True, "text_level"),
        ({"tokenizer_source": "sim://other"}, True, "other_tokenizer"),
    ],
)
def test_reason_is_told_everywhere(
    changes: dict[str, object], counts_on: bool, reason: str
) -> None:
    world = World()
    world.engine.capabilities = _capabilities(counts_on)
    _, sink = world.submit(**changes)
    assert world.observer.counts == ({f"unmovable {reason}": 1} if reason else {})
    world.call_of().step()
    world.scheduler.lose()
    world.scheduler.connect(world.dispatcher)
    (running,) = world.scheduler.sent(pb.Running)
    assert isinstance(running, pb.Running)
    assert running.request.unmovable_reason == reason
    destination = next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)
    world.scheduler.move("r1", destination)
    refusals = [event.reason for event in world.scheduler.sent(pb.MoveDone) if not event.moved]  # type: ignore[union-attr]
    assert refusals == ([reason] if reason else [])


def _capabilities(counts_on: bool) -> Capabilities:
    return replace(TOKEN_LEVEL, output_offset=counts_on)


class Forgotten(LetterDecoders):
    """The tokenizer made room for another while the request waited."""

    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return None


def test_request_whose_tokenizer_is_gone_goes_as_text() -> None:
    world = World(decoders=Forgotten())
    world.submit()
    assert world.call_of().request.token_ids is None
    assert world.observer.counts == {"unmovable no_tokenizer": 1}


def test_penalties_do_not_keep_a_failed_request_from_going_on() -> None:
    world = World()
    world.engine.capabilities = _capabilities(False)
    _, sink = world.submit(sampling=PENALISED)
    world.call_of().step(3)
    world.call_of().fail(LOST)
    world.run_out(10)
    assert sink.outcome is not None


def test_guided_decoding_ends_with_its_engine() -> None:
    world = World()
    _, sink = world.submit(unmovable_reason="guided_decoding")
    world.call_of().step(3)
    world.call_of().fail(LOST)
    world.settle(5)
    assert sink.error is not None and "guided_decoding" in sink.error.message
    assert world.scheduler.ledger == {}


def test_text_level_engine_gets_the_body() -> None:
    world = World()
    world.engine.capabilities = TEXT_LEVEL
    world.submit(body=b'{"a":1}')
    assert world.call_of().request.token_ids is None
    assert world.call_of().request.body == b'{"a":1}'
