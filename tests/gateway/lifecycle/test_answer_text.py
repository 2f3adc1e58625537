"""Stop strings and held-back text across engines; the matching itself is tested in tests/text."""

import pytest

from shunter_gateway.ports import TokenChunk, TokenLogprob
from shunter_gateway.testing import LetterDecoders
from shunter_gateway.testing_world import LOST, World
from shunter_proto.v1 import scheduler_pb2 as pb


def test_stop_string_across_a_failover_ends_the_answer() -> None:
    world = World()
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    stop = plain.text[2:5]
    _, sink = world.submit(stop=(stop,))
    world.call_of().step(3)
    assert sink.text == plain.text[:2]
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().step(5)
    assert sink.outcome is not None
    assert (sink.text, sink.outcome.stop_reason) == (plain.text[:2], stop)
    assert (sink.outcome.finish_reason, sink.outcome.output_tokens) == ("stop", 5)
    assert world.engine.live == [] and world.engine.calls[-1].aborted


def test_held_back_text_comes_at_the_end() -> None:
    world = World()
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    _, sink = world.submit(stop=(plain.text[-2:] + "!",))
    world.run_out(10)
    assert sink.text == plain.text


def test_rest_that_completes_a_stop_string_stops_the_answer() -> None:
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    world = World(decoders=LetterDecoders(rest="!?"))
    _, sink = world.submit(stop=(plain.text[-1] + "!",))
    world.run_out(10)
    assert sink.outcome is not None
    assert sink.text == plain.text[:-1]
    assert (sink.outcome.finish_reason, sink.outcome.output_tokens) == ("stop", 8)
    (finished,) = world.scheduler.sent(pb.Finished)
    assert isinstance(finished, pb.Finished) and finished.finish_reason == "stop"


def text_chunk(ids: list[int], text: str) -> TokenChunk:
    logprobs = [TokenLogprob(token_id, -0.5) for token_id in ids]
    return TokenChunk(token_ids=ids, text=text, output_tokens=len(ids) + 2, logprobs=logprobs)


@pytest.mark.parametrize(
    ("ids", "text", "stop", "counted", "said"),
    [
        ([2, 3, 4, 5], "cdef", "de", 3, "c"),  # ends with an id
        ([2, 3, 4, 5], "cdef", "bc", 1, ""),  # began in the chunk before
        ([2, 3, 4, 5], "cdef", "ef", 4, "cd"),
        ([2, 3, 4, 5], "CDEF", "DE", 4, "C"),  # not what the ids say: nothing can be told
        ([2], "cdef", "d", 1, "c"),  # one id stands for it all
    ],
)
def test_ids_after_a_stop_string_do_not_count_where_text_comes_with_them(
    ids: list[int], text: str, stop: str, counted: int, said: str
) -> None:
    world = World()
    _, sink = world.submit(max_tokens=20, stop=(stop,))
    call = world.call_of()
    call.send(TokenChunk(token_ids=[0, 1], text="ab", output_tokens=2))
    call.send(text_chunk(ids, text))
    assert sink.outcome is not None
    assert (sink.outcome.finish_reason, sink.outcome.stop_reason) == ("stop", stop)
    assert sink.token_ids == [0, 1, *ids[:counted]]
    assert [item.token_id for item in sink.deltas[-1].logprobs] == ids[:counted]
    assert sink.outcome.output_tokens == 2 + counted
    assert sink.text == ("ab" + said if stop != "bc" else "a")
