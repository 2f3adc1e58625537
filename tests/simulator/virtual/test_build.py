"""What a scenario says reaches the engines and the core."""

from dataclasses import replace
from typing import Any

import pytest

from shunter_scheduler.core import CoreSettings
from shunter_scheduler.core.costs import profile_cost
from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual import build
from shunter_simulator.virtual.step_times import LLAMA_7B_A10
from shunter_simulator.virtual.testing import small_scenario
from shunter_simulator.virtual.values import EngineShape


def shape(**engine: Any) -> EngineShape:
    return next(build.slots(small_scenario(1, engine=engine))).shape


def settings(**fields: Any) -> CoreSettings:
    return build.core_settings(small_scenario(1, **fields))


def test_an_engine_is_as_the_scenario_describes_it() -> None:
    told = shape(
        kvTokens=8000,
        blockTokens=32,
        watermark=0.05,
        maxNumSeqs=7,
        maxBatchTokens=900,
        batching="prefill-first",
        prefixCaching=False,
    )
    assert (told.kv_blocks, told.block_tokens, told.watermark) == (250, 32, 0.05)
    assert (told.max_num_seqs, told.max_batch_tokens) == (7, 900)
    assert (told.batching, told.cache_block_tokens) == ("prefill-first", 0)
    assert shape().cache_block_tokens == 64
    assert shape().times.mixed_s([(100, 0)], 0, 0) == pytest.approx(0.020)
    assert shape(times=None, measured="llama-7b-a10").times == LLAMA_7B_A10


def test_an_engine_is_what_model_and_accelerator_make_it_unless_told() -> None:
    scenario = small_scenario(1, engines={})
    (pool,) = scenario.model_pools
    slot = next(build.slots(scenario))
    cost = profile_cost(pool, pool.profiles[0])
    assert slot.shape.kv_blocks == cost.kv_capacity_tokens // 16
    assert slot.kv_bytes_per_token == cost.kv_bytes_per_token == 131_072
    assert slot.dollars_per_s == pytest.approx(0.001)
    believed = build.profile_costs(scenario)(pool, pool.profiles[0])
    assert believed == replace(cost, max_num_seqs=256)


def test_the_scheduler_believes_what_the_scenario_lets_it_believe() -> None:
    scenario = small_scenario(1, engine={"prior": 3.0})
    (pool,) = scenario.model_pools
    believed = build.profile_costs(scenario)(pool, pool.profiles[0])
    assert believed.rates.prefill_base_s == pytest.approx(0.030)
    assert believed.rates.decode_s_per_sequence == pytest.approx(0.003)
    assert believed.kv_capacity_tokens == 4096
    squares = small_scenario(
        1, engine={"times": None, "measured": "llama-7b-a10", "kvBytesPerToken": None}
    )
    cost = build.profile_costs(squares)(pool, pool.profiles[0])
    assert cost.rates.prefill_s_per_pair == 2 * LLAMA_7B_A10.prefill_s_per_square_token
    assert cost.kv_bytes_per_token == 2 * 32 * 4096 * 2  # half a MB: 8 MB per block of 16


@pytest.mark.parametrize(
    ("fields", "path", "value"),
    [
        ({"scheduler": {"countSent": False}}, "count_sent", False),
        ({"scheduler": {"priorityHeadroom": False}}, "head_room.for_priorities", False),
        ({"scheduler": {"alpha": 0.25}}, "alpha", 0.25),
        ({"scheduler": {"maxRequests": 5}}, "head_room.max_requests", 5),
        ({"scheduler": {"maxQueue": "3s"}}, "head_room.max_queue_s", 3.0),
        ({"scheduler": {"moneySPerDollar": 7}}, "money_s_per_dollar", 7.0),
        ({"moves": {"policy": "llumnix"}}, "moves.policy", "llumnix"),
        ({"moves": {"policy": "none"}}, "moves.policy", "drain-only"),
        ({"moves": {"interval": "1s"}}, "moves.interval_s", 1.0),
        ({"moves": {"bandwidthGbS": 2}}, "moves.kv_bytes_per_s", 2e9),
        ({"moves": {"hysteresis": 2}}, "moves.hysteresis", 2.0),
        ({"moves": {"settle": "3s"}}, "moves.settle_s", 3.0),
        ({"moves": {"llumnixFreeness": 160}}, "moves.llumnix_freeness", 160.0),
        ({"queueIn": "engines"}, "head_room", build.NO_QUEUE),
    ],
)
def test_the_core_is_set_as_the_scenario_says(
    fields: dict[str, Any], path: str, value: object
) -> None:
    found: object = settings(**fields)
    default: object = settings()
    for part in path.split("."):
        found, default = getattr(found, part), getattr(default, part)
    assert found == value
    assert path == "moves.policy" or found != default


def test_without_moves_pools_do_not_migrate() -> None:
    def modes(scenario: Scenario) -> set[str]:
        return {pool.migration.mode for pool in build.pools_of(scenario)}

    assert modes(small_scenario(1, moves={"policy": "none"})) == {"Off"}
    assert modes(small_scenario(1)) == {"Auto"}
