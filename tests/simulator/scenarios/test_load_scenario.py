from pathlib import Path

import pytest

from shunter_api.problems import ConfigurationError
from shunter_simulator.scenarios import Scenario, load_scenario, parse_scenario, with_policy

MINIMAL = """\
pools:
  - name: chat
    model: llama-3.1-8b
    profiles: [{name: h100, accelerator: h100}]
workload: {kind: generated, rate: 5, duration: 60s}
"""
MANIFEST = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: code}
spec:
  model: {source: sim://qwen2.5-7b}
  engine: {type: simulated}
  profiles: [{name: l4, accelerator: l4, replicas: {min: 3}}]
---
apiVersion: shunter.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: main}
spec:
  dispatch: {policy: round-robin}
"""


def parse(text: str, **files: str) -> Scenario:
    return parse_scenario(text, "s.yaml", lambda name: files[name])


def problems(text: str, **files: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, **files)
    return [str(problem) for problem in caught.value.problems]


def test_a_pool_is_short_to_write_and_has_the_defaults_of_its_resource() -> None:
    scenario = parse(MINIMAL)
    (pool,) = scenario.model_pools
    assert (pool.name, pool.engine_type) == ("chat", "simulated")
    assert pool.spec.model.source == "sim://llama-3.1-8b"
    assert list(scenario.instances_of(pool)) == [("h100", "chat-h100-0")]
    assert scenario.observe_every == 0.05


def test_instances_are_counted_per_profile() -> None:
    (pool,) = parse(MINIMAL).model_pools
    scenario = parse(MINIMAL + "instances: {chat: {h100: 2}}\n")
    assert [name for _, name in scenario.instances_of(pool)] == ["chat-h100-0", "chat-h100-1"]


def test_resources_are_those_that_kubectl_takes() -> None:
    scenario = parse(MINIMAL + "resources: [pools.yaml]\n", **{"pools.yaml": MANIFEST})
    assert [pool.name for pool in scenario.model_pools] == ["chat", "code"]
    assert scenario.policy.dispatch.policy == "round-robin"
    assert len(list(scenario.instances_of(scenario.model_pools[1]))) == 3


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("rate: 5", "rate: -5", "s.yaml:5: workload.rate: Input should be greater than 0"),
        ("rate: 5", "rat: 5", "s.yaml:5: workload.rat: unknown field; did you mean rate?"),
        ("h100}]", "h1000}]", "s.yaml:4: pools[0].profiles[0].accelerator: unknown accelerator"),
        ("llama-3.1-8b", "lama-8", "s.yaml:3: pools[0].model.source: no architecture is known"),
        ("pools:", "pols:", "s.yaml:1: pols: unknown field; did you mean pools?"),
        ("kind: generated", "kind: unheard", "s.yaml:5: workload.kind: must be one of"),
        ("60s}", "60s, prompt: long}", "s.yaml:5: workload.prompt: 'long' is not a length; write"),
        (
            "60s}",
            "60s, labels: [{share: 1}, {share: 1, class: standart}]}",
            "s.yaml:5: workload.labels[1].class: there is no class 'standart'; did you mean",
        ),
        (
            "generated, rate: 5, duration: 60s",
            "llumnix, prompts: S, outputs: S, rate: 5, highShare: 0.1",
            "s.yaml:5: workload.highClass: there is no class 'high'; known: standard",
        ),
        (
            "generated, rate: 5, duration: 60s",
            "streams, duration: 60s, streams: [{rate: 1, class: batch}], only: batch",
            "s.yaml:5: workload.only: there is no class 'batch'; known: standard",
        ),
    ],
)
def test_a_problem_names_file_line_and_field(old: str, new: str, problem: str) -> None:
    found = problems(MINIMAL.replace(old, new))
    assert any(text.startswith(problem) for text in found), found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("instances: {chta: {h100: 2}}", "instances.chta: there is no pool 'chta'; did you mean"),
        ("instances: {chat: {a100: 2}}", "instances.chat.a100: there is no profile 'a100'"),
        ("engines: {chat: {l4: {}}}", "engines.chat.l4: there is no profile 'l4'"),
        (
            "engines: {chat: {h100: {maxBatchTokens: 10}}}",
            "engines.chat.h100: a chunked step takes a token of each answer",
        ),
        ("policy: {dispatch: {policy: random}}", "policy.dispatch.policy: must be one of"),
        (
            "policy: {rules: [{name: r, route: [{pool: code}]}]}",
            "policy.rules[0].route[0].pool: there is no pool 'code'",
        ),
        (
            "faults: [{kind: dies, at: 1s, instance: chat-h100-7}]",
            "faults[0].instance: there is no instance 'chat-h100-7'; did you mean 'chat-h100-0'?",
        ),
        (
            "faults: [{kind: dies, at: 1s, pool: chat, count: 2}]",
            "faults[0].count: asks for 2 instances; there are 1",
        ),
        ("faults: [{kind: dies, at: 1s}]", "faults[0]: a fault hits one instance or some"),
        ("faults: [{kind: explodes, at: 1s, pool: chat}]", "faults[0].kind: must be one of"),
        ("observeEvery: 50", "observeEvery: a duration is a number with a unit"),
        ("observeEvery: 0s", "observeEvery: an interval is more than 0s"),
        ("moves: {policy: off}", "moves.policy: must be one of"),
    ],
)
def test_what_does_not_fit_together_is_named_on_its_line(line: str, problem: str) -> None:
    found = problems(MINIMAL + line + "\n")
    assert any(text.startswith(f"s.yaml:6: {problem}") for text in found), found


def test_real_engines_are_simulated_too_where_their_model_is_known() -> None:
    real = MANIFEST.replace("sim://qwen2.5-7b", "hf://Qwen/Qwen2.5-7B").replace("simulated", "vllm")
    text = MINIMAL + "resources: [pools.yaml]\n"
    assert len(parse(text, **{"pools.yaml": real}).pools) == 2
    unheard = real.replace("Qwen2.5-7B", "Unheard-7B")
    (problem,) = problems(text, **{"pools.yaml": unheard})
    assert "no architecture is known" in problem
    told = "engines: {code: {l4: {measured: llama-7b-a10, kvTokens: 16384}}}\n"
    assert len(parse(text + told, **{"pools.yaml": unheard}).pools) == 2


def test_clashes_with_resources_are_named_where_they_are() -> None:
    files = {"pools.yaml": MANIFEST.replace("name: code", "name: chat")}
    text = MINIMAL + "resources: [pools.yaml]\npolicy: {}\n"
    found = problems(text, **files)
    assert "pools.yaml:3: metadata.name: the scenario has a pool of this name as well" in found
    assert "s.yaml:7: policy: `resources` give a RoutingPolicy as well; keep one" in found


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_scenario(tmp_path / "none.yaml")
    scenario = tmp_path / "s.yaml"
    scenario.write_text(MINIMAL + "resources: [gone.yaml]\n")
    with pytest.raises(ConfigurationError, match=r"gone\.yaml: cannot be read"):
        load_scenario(scenario)


def test_another_policy_can_be_chosen_by_its_name() -> None:
    scenario = parse(MINIMAL)
    assert with_policy(scenario, "round-robin").policy.dispatch.policy == "round-robin"
    with pytest.raises(ConfigurationError, match="--policy: must be one of"):
        with_policy(scenario, "fastest")
