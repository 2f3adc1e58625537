"""Small worlds for tests, and a look at their books."""

from collections.abc import Iterable, Mapping
from typing import Any

from shunter_scheduler.core.testing import CoreHarness
from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual.world import World
from shunter_simulator.workloads import Arrival
from shunter_simulator.workloads.build import Workload

# Round figures: a prompt of 100 tokens takes 20 ms, a step of 10 answers 20 ms.
TIMES: Mapping[str, float] = {
    "prefillBaseMs": 10,
    "prefillTokenMs": 0.1,
    "decodeBaseMs": 10,
    "decodeSequenceMs": 1,
    "decodeContextTokenMs": 0.001,
}
UNUSED_LOAD = {"kind": "generated", "rate": 1, "duration": "1s"}


def small_scenario(
    instances: int = 2, engine: Mapping[str, Any] | None = None, **fields: Any
) -> Scenario:
    """One pool `chat` of instances chat-h100-0, -1, ... with 4,096 tokens of KV memory; `engine`
    and `fields` are keys as in YAML."""
    settings = {
        "times": TIMES,
        "kvTokens": 4096,
        "kvBytesPerToken": 100_000,
        "maxNumSeqs": 16,
        "maxBatchTokens": 512,
        **(engine or {}),
    }
    return Scenario.model_validate(
        {
            "pools": [
                {
                    "name": "chat",
                    "model": {"source": "sim://llama-3.1-8b", "contextLength": 4096},
                    "profiles": [{"name": "h100", "accelerator": "h100", "costPerHour": "3.60"}],
                    "slo": {"ttft": "500ms", "tpot": "50ms"},
                }
            ],
            "instances": {"chat": {"h100": instances}},
            "engines": {"chat": {"h100": settings}},
            "workload": UNUSED_LOAD,
            **fields,
        }
    )


def make_world(
    scenario: Scenario, arrivals: Iterable[Arrival], workload: Workload | None = None, seed: int = 0
) -> World:
    return World(scenario, seed, arrivals, workload, None)


def check_world(world: World) -> None:
    """Raises `AssertionError` unless a world that has run its course holds nothing any more."""
    core = CoreHarness.__new__(CoreHarness)
    core.core, core.now = world.cell.core, world.agenda.now
    core.check_books()
    assert not core.core._state.entries
    assert not world.gateway.open
    for slot in world.fleet.slots.values():
        slot.engine.check()
        seen = slot.engine.stats(world.agenda.now)
        assert (seen.running, seen.waiting, seen.used_blocks) == (0, 0, 0), slot.name
        assert not slot.warming
