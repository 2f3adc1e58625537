"""Stop strings and held-back text across engines; the matching itself is tested in tests/text."""

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
