"""From a configuration to engines and their command lines."""

from pathlib import Path
from typing import Any

from shunter.up.plan import engine_arguments, llama_arguments, plan_engines
from shunter_api.instances import InstanceEntry
from shunter_api.modelpool import ModelPool
from shunter_api.testing import make_pool
from shunter_api.validate import Configuration


def plan(*pools: ModelPool, listed: str = "") -> tuple[dict[str, Any], list[str]]:
    entry = {"name": "x", "pool": listed, "profile": "h100", "address": "h:1"}
    instances = (InstanceEntry.model_validate(entry),) if listed else ()
    return plan_engines(Configuration(pools, (), instances))


def profiles(*minimums: int) -> dict[str, Any]:
    return {
        "profiles": [
            {"name": f"p{n}", "accelerator": "l4", "replicas": {"min": minimum, "max": 9}}
            for n, minimum in enumerate(minimums)
        ]
    }


def test_the_least_replicas_of_each_profile() -> None:
    plans, remarks = plan(make_pool("chat", spec=profiles(2, 0, 1)))
    assert list(plans) == ["chat-p0-0", "chat-p0-1", "chat-p2-0"]
    assert remarks == []


def test_engines_of_others_are_left_to_others() -> None:
    plans, remarks = plan(make_pool("a", engine="vllm"), make_pool("b", spec=profiles(0)))
    assert plans == {}
    assert "InstanceList" in remarks[0]
    assert "replicas.min 0" in remarks[1] and remarks[1].endswith(
        "one to 1 to serve it on this machine"
    )
    to_zero = {**profiles(0), "scaling": {"scaleToZero": {}}}
    _, remarks = plan(make_pool("b", spec=to_zero))
    assert "wait in vain" in remarks[0] and "without scaleToZero" in remarks[0]
    assert plan(make_pool("a", engine="vllm"), listed="a") == ({}, [])
    assert plan(make_pool("a"), listed="a") == ({}, [])


def test_a_fixed_port_counts_up_over_the_pool() -> None:
    spec = {**profiles(1, 2), "engine": {"type": "simulated", "port": 9000}}
    plans, _ = plan(make_pool("chat", spec=spec))
    assert [p.port for p in plans.values()] == [9000, 9001, 9002]


def test_only_what_needs_a_restart_makes_plans_differ() -> None:
    one, _ = plan(make_pool("chat", aliases=["x"]))
    other, _ = plan(make_pool("chat", aliases=["y"], spec={"slo": {"ttft": "1s"}}))
    assert one == other
    other, _ = plan(make_pool("chat", contextLength=1024))
    assert one != other


def test_the_command_line_of_a_simulated_engine() -> None:
    spec = {"engine": {"type": "simulated", "args": ["--seed", "7"]}}
    plans, _ = plan(make_pool("chat", name="llama", contextLength=4096, spec=spec))
    arguments = engine_arguments(plans["chat-h100-0"], 81, 2.5)
    assert arguments == (
        *("--backend", "simulated", "--model", "sim://llama-3.1-8b", "--served-name", "llama"),
        *("--accelerator", "h100-sxm-80gb", "--tensor-parallel", "1"),
        *("--context-length", "4096", "--port", "81", "--moves-port", "0"),
        *("--speed", "2.5", "--seed", "7"),
    )


def test_llama_server_gets_the_context_of_all_its_slots() -> None:
    spec = {"engine": {"type": "llamacpp", "args": ["--parallel", "3"]}}
    plans, _ = plan(make_pool("chat", engine="llamacpp", contextLength=1000, spec=spec))
    arguments = llama_arguments(plans["chat-h100-0"], "/m.gguf", 81, Path("/slots"))
    assert arguments[arguments.index("--ctx-size") + 1] == "3000"
    assert arguments[arguments.index("--slot-save-path") + 1] == "/slots"


def test_a_pool_that_cannot_be_served_here_leaves_the_others() -> None:
    pools = (make_pool("a"), make_pool("b"))
    plans, remarks = plan_engines(Configuration(pools, (), ()), {"b": "no weights"})
    assert {engine.pool for engine in plans.values()} == {"a"}
    assert remarks == ["pool b is not served: no weights"]
