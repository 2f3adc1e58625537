"""What an engine ignores is refused once a request is placed there, wherever it came from."""

from dataclasses import replace

import pytest

from shunter_gateway.ports import ExtraField, SamplingParams
from shunter_gateway.testing_world import SPEC, World
from shunter_proto.v1 import scheduler_pb2 as pb

IGNORES: frozenset[ExtraField] = frozenset({"min_tokens", "stop_token_ids"})
ENDLESS = replace(SPEC.sampling, ignore_eos=True)


def world_that_ignores() -> World:
    world = World()
    world.engine.capabilities = replace(world.engine.capabilities, ignores=IGNORES)
    return world


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("min_tokens", {"min_tokens": 3}),
        ("stop_token_ids", {"sampling": SamplingParams(stop_token_ids=(7,))}),
        ("stop_token_ids", {"min_tokens": 3, "sampling": replace(ENDLESS, stop_token_ids=(7,))}),
    ],
)
def test_the_client_is_told_and_no_engine_is_asked(field: str, changes: dict[str, object]) -> None:
    world = world_that_ignores()
    _, sink = world.submit(**changes)
    assert sink.error is not None
    assert (sink.error.status, sink.error.param) == (400, field)
    assert "(simulated)" in sink.error.message and "leave it out" in sink.error.message
    assert world.engine.calls == [] and world.scheduler.ledger == {}
    assert isinstance(world.scheduler.events[-1], pb.Finished)


@pytest.mark.parametrize("changes", [{}, {"min_tokens": 3, "sampling": ENDLESS}])
def test_what_it_obeys_is_served(changes: dict[str, object]) -> None:
    world = world_that_ignores()
    _, sink = world.submit(**changes)
    world.run_out(20)
    assert sink.error is None and len(world.engine.calls) == 1
    other = World()
    _, sink = other.submit(min_tokens=3)
    assert sink.error is None and other.engine.calls[0].request.min_tokens == 3
