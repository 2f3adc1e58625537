"""What profiles cost: the rates a core begins with, and what observations make of them."""

from typing import Any

import numpy as np
import pytest

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import ProfileCost, profile_cost
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.core.testing import CoreHarness, make_instances
from shunter_scheduler.costmodel import LinearRates
from shunter_scheduler.domain.events import Finished, FirstToken, Progress

MEASURED = LinearRates(0.1, 1e-3, 0.05, 1e-3, 1e-6)


def test_a_core_begins_with_the_rates_it_is_given() -> None:
    asked: list[tuple[str, str]] = []

    def measured(pool: ModelPool, profile: Profile) -> ProfileCost:
        asked.append((pool.name, profile.name))
        return ProfileCost(MEASURED, 5000, 0.0)

    harness = CoreHarness(make_instances(3), profile_costs=measured)
    assert asked == [("chat", "h100")]  # the instances of a profile share its model
    assert harness.assign("r0", prompt_tokens=2000).predicted_ttft_s == 0.1 + 2000 * 1e-3
    assert {i.kv_capacity_tokens for i in harness.core.status(0.0).instances} == {5000}


def test_advice_uses_the_rates_that_a_core_is_given() -> None:
    """A profile without an instance has no model of its own yet."""
    pool = make_pool("chat", profiles=("h100", "l4"))

    def slow_h100(pool: ModelPool, profile: Profile) -> ProfileCost:
        cost = profile_cost(pool, profile)
        return ProfileCost(MEASURED, 2000, 0.0) if profile.name == "h100" else cost

    advice = CoreHarness((), pools=[pool], profile_costs=slow_h100).core.advise_scaling("chat", 0.0)
    given = CoreHarness((), pools=[pool]).core.advise_scaling("chat", 0.0)
    assert [a.profile for a in advice] == [a.profile for a in given] == ["h100", "l4"]
    assert advice[0].reason != given[0].reason
    assert advice[1].reason == given[1].reason


@pytest.mark.parametrize(
    ("args", "kv_ratio", "faster"),
    [
        (["--gpu-memory-utilization", "0.45"], 0.369, False),
        (["--gpu-memory-utilization=0.45"], 0.369, False),
        (["--kv-cache-dtype", "fp8_e4m3"], 2.0, True),
        (["--quantization", "awq"], 1.17, True),
        (["-q=fp8"], 1.12, True),
        (["--gpu_memory_utilization", "much", "--kv-cache-dtype", "auto"], 1.0, False),
        (["--gpu-memory-utilization", "7", "--quantization"], 1.0, False),
    ],
)
def test_the_engine_s_arguments_count(args: list[str], kv_ratio: float, faster: bool) -> None:
    source = "hf://meta-llama/Llama-3.1-8B"
    plain = make_pool("chat", engine="vllm", source=source)
    engine = {"engine": {"type": "vllm", "args": args}}
    pool = make_pool("chat", engine="vllm", source=source, spec=engine)
    before, after = (profile_cost(p, p.profiles[0]) for p in (plain, pool))
    ratio = after.kv_capacity_tokens / before.kv_capacity_tokens
    assert ratio == pytest.approx(kv_ratio, rel=0.02)
    steps = [r.decode_base_s + 64 * 4096 * r.decode_s_per_context_token
             for r in (before.rates, after.rates)]  # fmt: skip
    assert (steps[1] < 0.95 * steps[0]) == faster


def test_sglang_has_names_of_its_own_for_the_same() -> None:
    source = "hf://meta-llama/Llama-3.1-8B"
    arguments = {
        "vllm": ["--gpu-memory-utilization", "0.7", "--quantization", "fp8"],
        "sglang": ["--mem-fraction-static=0.7", "--quantization", "w8a8_fp8"],
    }
    costs = []
    for engine, args in arguments.items():
        spec = {"engine": {"type": engine, "args": args}}
        pool = make_pool("chat", engine=engine, source=source, spec=spec)
        costs.append(profile_cost(pool, pool.profiles[0]))
    assert costs[0] == costs[1]


def test_the_file_s_own_quantisation_goes_before_the_command_line() -> None:
    spec = {"engine": {"type": "vllm", "args": ["--quantization", "fp8"]}}
    pools = [
        make_pool("chat", engine="vllm", source="hf://Qwen/Qwen2.5-7B-Instruct-AWQ", spec=one)
        for one in (spec, None)
    ]
    told, own = (profile_cost(pool, pool.profiles[0]) for pool in pools)
    assert told == own


class Truth:
    """An engine's real times, and a harness whose instances take them."""

    def __init__(self, prefill: tuple[float, float], step: tuple[float, float, float]) -> None:
        self.prefill_base_s, self.prefill_s_per_token = prefill
        self.step_base_s, self.per_sequence_s, self.per_token_s = step
        self.harness = CoreHarness(
            make_instances(1), profile_costs=lambda pool, profile: ProfileCost(MEASURED, 10**6, 0.0)
        )

    @property
    def model(self) -> ProfileModel:
        return self.harness.core._state.instances["chat-h100-0"].model

    def ttft_s(self, tokens: int) -> float:
        return self.prefill_base_s + tokens * self.prefill_s_per_token

    def step_s(self) -> float:
        """Of what runs now, by the ledger's own numbers."""
        load = self.harness.loads()["chat-h100-0"]
        decoding = load.requests - load.prefilling
        context_s = load.kv_tokens * self.per_token_s
        return self.step_base_s + decoding * self.per_sequence_s + context_s

    def first(self, request_id: str, tokens: int, **fields: Any) -> None:
        """A request alone in its prefill, to its first token."""
        harness = self.harness
        harness.assign(request_id, prompt_tokens=tokens, max_output_tokens=4000, **fields)
        harness.now += self.ttft_s(tokens)
        harness.apply(FirstToken(request_id, 1, self.ttft_s(tokens)))

    def decode(self, done: dict[str, float], seconds: float) -> None:
        """Half-second reports of all that run, `done` tokens each."""
        until = self.harness.now + seconds
        while self.harness.now < until:
            self.harness.now += 0.5
            made = 0.5 / self.step_s()
            for request_id in done:
                done[request_id] += made
                self.harness.apply(Progress(request_id, 1, 1 + int(done[request_id])))


def test_status_tells_how_far_times_were_off_and_are_now() -> None:
    truth = Truth((0.3, 3e-3), (0.05, 1e-3, 1e-6))
    before = {cost.kind: cost for cost in truth.harness.core.status(0.0).costs}
    assert set(before) == {"prefill", "decode"}
    assert (before["prefill"].correction, before["prefill"].observations) == (1.0, 0)
    for i in range(3):
        truth.first(f"r{i}", 500)
        truth.harness.now += 1.0
    early = truth.harness.core.status(0.0).costs[0]
    assert (early.pool, early.profile, early.kind) == ("chat", "h100", "prefill")
    assert early.error_ratio > 0.5
    for i in range(60):
        truth.first(f"s{i}", 400 + 3 * i)
        truth.harness.apply(Finished(f"s{i}", 1, 1, "stop"))
        truth.harness.now += 1.0
    late = truth.harness.core.status(0.0).costs[0]
    assert late.correction == pytest.approx(3.0, rel=0.08)
    assert late.error_ratio < 0.1
    assert late.standard_error_ratio < 0.5 * before["prefill"].standard_error_ratio
    assert late.observations == 63


def test_times_to_first_token_correct_base_and_rate_each() -> None:
    truth = Truth((0.02, 3e-3), (0.05, 1e-3, 1e-6))
    rng = np.random.default_rng(0)
    for i in range(150):
        truth.first(f"r{i}", int(rng.integers(50, 4000)))
        truth.harness.apply(Finished(f"r{i}", 1, 1, "stop"))
        truth.harness.now += 1.0
    for tokens in (100, 1000, 3500):
        assert truth.model.prefill_s(tokens) == pytest.approx(truth.ttft_s(tokens), rel=0.08)
    assigned = truth.harness.assign("last", prompt_tokens=2500)
    assert assigned.predicted_ttft_s == pytest.approx(truth.ttft_s(2500), rel=0.08)


def test_of_a_request_in_a_queue_its_own_part_of_the_time_counts() -> None:
    """Two at once, the second of which waits for the first: twice as slow as predicted."""
    truth = Truth((0.2, 2e-3), (0.05, 1e-3, 1e-6))
    for i in range(60):
        ids = [f"{i}-{j}" for j in range(2)]
        for request_id in ids:
            truth.harness.assign(request_id, prompt_tokens=1000)
        for j, request_id in enumerate(ids):
            truth.harness.now += truth.ttft_s(1000)
            truth.harness.apply(FirstToken(request_id, 1, (j + 1) * truth.ttft_s(1000)))
        truth.harness.apply(*(Finished(request_id, 1, 1, "stop") for request_id in ids))
        truth.harness.now += 1.0
    assert truth.model.prefill_s(1000) == pytest.approx(truth.ttft_s(1000), rel=0.05)


def test_what_the_engine_had_cached_takes_no_time() -> None:
    truth = Truth((0.1, 1e-3), (0.05, 1e-3, 1e-6))
    for i in range(40):
        truth.harness.assign(f"r{i}", prompt_tokens=3000)
        truth.harness.apply(FirstToken(f"r{i}", 1, truth.ttft_s(1000), cached_tokens=2000))
        truth.harness.apply(Finished(f"r{i}", 1, 1, "stop"))
        truth.harness.now += 1.0
    assert truth.model.prefill_s(1000) == pytest.approx(truth.ttft_s(1000), rel=0.05)


def test_only_what_engines_say_they_had_cached_counts_as_hits_and_misses() -> None:
    harness = Truth((0.1, 1e-3), (0.05, 1e-3, 1e-6)).harness
    for i, cached_tokens in enumerate((None, 0, 600)):
        harness.assign(f"r{i}", prompt_tokens=1000)
        harness.apply(FirstToken(f"r{i}", 1, 1.0, cached_tokens=cached_tokens))
        harness.apply(Finished(f"r{i}", 1, 1, "stop"))
    (pool,) = harness.core._state.pools.values()
    assert (pool.hits.prompt_tokens, pool.hits.hit_tokens) == (2000, 600)


def test_reports_of_progress_correct_steps_by_batch_and_context() -> None:
    truth = Truth((0.1, 1e-3), (0.02, 3e-3, 2e-6))
    rng = np.random.default_rng(1)
    for round_ in range(40):
        done = {f"{round_}-{j}": 0.0 for j in range(int(rng.integers(1, 30)))}
        for request_id in done:
            truth.first(request_id, int(rng.integers(10, 3000)))
        truth.decode(done, 4.0)
        truth.harness.apply(*(Finished(r, 1, 1 + int(n), "stop") for r, n in done.items()))
        truth.harness.now += 1.0
    for sequences, context in ((1, 1000), (8, 20_000), (25, 60_000)):
        real_s = 0.02 + sequences * 3e-3 + context * 2e-6
        assert truth.model.decode_step_s(sequences, context) == pytest.approx(real_s, rel=0.15)


def test_prefills_between_two_reports_are_not_taken_for_slow_steps() -> None:
    """Of each second a third goes to other requests' prefills."""
    truth = Truth((0.001, 1e-3), (0.05, 1e-3, 0.0))
    harness = truth.harness
    for i in range(60):  # what a prefill takes is known
        truth.first(f"before-{i}", 50 + 30 * i)
        harness.apply(Finished(f"before-{i}", 1, 1, "stop"))
    truth.first("long", 500)
    tokens = 0.0
    for i in range(60):
        harness.assign(f"r{i}", prompt_tokens=333)
        harness.now += 1.0
        harness.apply(FirstToken(f"r{i}", 1, truth.ttft_s(333)))
        harness.apply(Finished(f"r{i}", 1, 1, "stop"))
        tokens += (1.0 - truth.ttft_s(333)) / 0.051
        harness.apply(Progress("long", 1, 1 + int(tokens)))
    assert truth.model.decode_step_s(1, 600) == pytest.approx(0.051, rel=0.1)


def test_a_probe_that_ends_or_falls_silent_makes_room_for_another() -> None:
    truth = Truth((0.1, 1e-3), (0.05, 1e-3, 0.0))
    probe = truth.harness.core._state.instances["chat-h100-0"].probe
    truth.first("a", 100)
    truth.first("b", 100)
    assert probe.of is truth.harness.core._state.entries["a"]
    truth.harness.apply(Finished("a", 1, 5, "stop"))
    truth.harness.apply(Progress("b", 1, 10))
    assert probe.of is truth.harness.core._state.entries["b"]
    truth.first("c", 100)
    assert probe.of is truth.harness.core._state.entries["b"]
    truth.harness.now += 10.0
    truth.harness.apply(Progress("c", 1, 10))
    assert probe.of is truth.harness.core._state.entries["c"]


def test_a_short_answer_counts_from_its_first_token_to_its_end() -> None:
    truth = Truth((0.1, 1e-3), (0.15, 1e-3, 0.0))
    for i in range(40):
        truth.first(f"r{i}", 100)
        truth.harness.now += 20 * 0.151
        truth.harness.apply(Finished(f"r{i}", 1, 21, "stop"))
    assert truth.model.decode.count == 40
    assert truth.model.decode_step_s(1, 120) == pytest.approx(0.151, rel=0.05)


@pytest.mark.parametrize(
    ("engine", "again"),
    [({"type": "simulated"}, False), ({"type": "simulated", "args": ["--speed", "2"]}, True)],
)
def test_another_engine_configuration_begins_with_the_prior(
    engine: dict[str, Any], again: bool
) -> None:
    """Instances of the old one keep what was learnt about it."""
    pool = make_pool("chat", spec={"engine": {"type": "simulated"}})
    harness = CoreHarness(make_instances(1), pools=[pool])
    model = harness.core._state.pools["chat"].models["h100"]
    changed = make_pool("chat", spec={"engine": engine})
    harness.configure(make_instances(2), [changed])
    models = [record.model for record in harness.core._state.instances.values()]
    assert models[0] is model
    assert (models[1] is not model) == again


@pytest.mark.parametrize(
    ("engine", "args", "places"),
    [
        ("sglang", ["--max-running-requests", "3"], 3),
        ("vllm", ["--max-num-seqs", "2"], 2),
        ("vllm", ["--max_num_seqs=8", "--max-num-seqs", "3"], 3),
        ("vllm", ["--max-num-seqs", "many"], 5),
        ("simulated", ["--max-num-seqs", "2"], 2),
        ("openai", ["--max-running-requests", "4"], 4),
        ("llamacpp", ["-np", "3"], 3),
        ("llamacpp", [], 4),
        ("openai", [], 5),
    ],
)
def test_requests_beyond_an_engine_s_batch_wait_at_the_scheduler(
    engine: str, args: list[str], places: int
) -> None:
    """Five come; in the engine they would wait in the order in which they came."""
    spec = {"engine": {"type": engine, "args": args}}
    harness = CoreHarness(make_instances(1), pools=[make_pool("chat", engine=engine, spec=spec)])
    for n in range(5):
        harness.submit(f"r{n}", prompt_tokens=16)
    assert harness.core.status(0.0).instances[0].running == places
    harness.after(Finished("r0", 1, 4, "stop"))
    assert harness.core.status(0.0).instances[0].running == min(places, 4)
