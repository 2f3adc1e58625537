"""Prefill and decode apart in virtual time: who computes what, and that nothing stays behind."""

from collections.abc import Sequence
from typing import Any

import pytest

from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import TIMES, UNUSED_LOAD, check_world, make_world
from shunter_simulator.workloads import Arrival

LOAD = [Arrival(0.15 * n, 400, 60) for n in range(40)]


def scenario(counts: dict[str, int], **fields: Any) -> Scenario:
    """Profiles are called like their roles, in small letters."""
    # Steps hardly grow with the batch: what holds them up are prompts.
    step = {"decodeSequenceMs": 0.1, "decodeContextTokenMs": 0}
    times = {"times": {**TIMES, **step}, "kvTokens": 16_384, "kvBytesPerToken": 100_000}
    pool = {
        "name": "chat",
        "model": {"source": "sim://llama-3.1-8b", "contextLength": 4096},
        "profiles": [
            {"name": name, "accelerator": "h100", "role": name.capitalize()} for name in counts
        ],
        "migration": {"maxConcurrentPerInstance": 8},
    }
    return Scenario.model_validate(
        {
            "pools": [pool],
            "instances": {"chat": counts},
            "engines": {"chat": {name: times for name in counts}},
            "workload": UNUSED_LOAD,
            **fields,
        }
    )


def run(counts: dict[str, int], load: Sequence[Arrival] = LOAD, **fields: Any) -> Results:
    world = make_world(scenario(counts, **fields), load)
    results = world.run()
    check_world(world)
    assert results.finished.all()
    return results


def ended_on(results: Results) -> set[str]:
    names, codes = results.names["instance"], results.columns["instance"]
    return {names[int(code)].split("-")[1] for code in codes}


@pytest.mark.parametrize("transport", ["kv", "replay"])
def test_every_request_is_prefilled_here_and_ends_there(transport: str) -> None:
    results = run({"prefill": 1, "decode": 2}, moves={"transport": transport})
    handed = [move for move in results.moves if move.moved]
    assert {move.reason for move in handed} == {"hand-over"}
    assert {move.source for move in handed} == {"chat-prefill-0"}
    assert {move.rung for move in handed} == {transport}
    assert {move.request for move in handed} == set(range(len(LOAD)))
    assert ended_on(results) == {"decode"}


def test_prefills_hold_up_nobody_who_decodes() -> None:
    long_prompts = [Arrival(0.3 * n, 3000, 100) for n in range(40)]
    apart = run({"prefill": 2, "decode": 2}, long_prompts)
    mixed = run({"any": 4}, long_prompts)
    longest = [float((r.columns["e2e_s"] - r.columns["ttft_s"]).max()) for r in (apart, mixed)]
    assert longest[0] < longest[1]


def test_a_prefill_instance_that_dies_is_stood_in_for() -> None:
    fault = {"kind": "dies", "at": "2s", "instance": "chat-prefill-0", "backAfter": "2s"}
    results = run({"prefill": 1, "decode": 2}, faults=[fault])
    unmoved = set(range(len(LOAD))) - {move.request for move in results.moves if move.moved}
    assert unmoved, "decode instances prefilled meanwhile"
    late = {move.request for move in results.moves if move.moved and move.at_s > 4.5}
    assert late, "and handed it back"


def test_without_moves_nothing_is_handed_over() -> None:
    results = run({"prefill": 1, "decode": 1}, moves={"policy": "none"})
    assert results.moves == ()
    assert ended_on(results) == {"prefill"}
