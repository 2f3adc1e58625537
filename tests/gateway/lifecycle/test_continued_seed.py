"""Seeded sampling where an answer goes on elsewhere, for each type of engine."""

import pytest

from shunter_gateway.continued_seed import continued_seed
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.table import ENGINE_ADAPTERS
from shunter_gateway.ports import SamplingParams
from shunter_gateway.testing_world import LOST, World

SEED = 3
SEEDED = SamplingParams(temperature=0.7, seed=SEED)
# These know where in the answer a call begins; the others draw from the seed's beginning again.
COUNT_ON = {"simulated", "numpy", "sglang"}


@pytest.mark.parametrize("engine_type", ENGINE_ADAPTERS)
@pytest.mark.parametrize("way", ["moved", "died"])
async def test_a_continuation_has_its_own_seed_where_draws_are_counted(
    engine_type: str, way: str
) -> None:
    client, world = HttpClient(), World()
    world.engine.capabilities = ENGINE_ADAPTERS[engine_type](client).capabilities
    await client.close()
    if not world.engine.capabilities.token_ids:
        return  # it has no continuations
    _, sink = world.submit(sampling=SEEDED)
    first = world.call_of()
    assert first.request.sampling.seed == SEED
    first.step(3)
    if way == "died":
        first.fail(LOST)
        world.settle()
    else:
        world.scheduler.move("r1", next(n for n in world.instances if n not in sink.assigned))
        while world.call_of() is first or "warm" in world.call_of().request.request_id:
            warm = next(c for c in world.engine.live if "warm" in c.request.request_id)
            warm.step()
    request = world.call_of().request
    assert request.output_offset >= 3
    unchanged = engine_type in COUNT_ON
    expected = SEED if unchanged else continued_seed(SEED, request.output_offset)
    assert request.sampling.seed == expected
    world.run_out(20)
    assert sink.outcome is not None


def test_seeds_differ_by_position_and_by_seed_and_are_always_the_same() -> None:
    seeds = {continued_seed(seed, position) for seed in (-1, 3, 2**62) for position in (1, 2, 500)}
    assert len(seeds) == 9 and all(0 <= seed < 2**32 for seed in seeds)
    assert continued_seed(3, 30) == continued_seed(3, 30) == 3972547916
