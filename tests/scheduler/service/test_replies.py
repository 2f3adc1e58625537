"""What gateways are told of the configuration, and people of the state."""

from typing import Any

import pytest

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.status import ClusterStatus, CostStatus
from shunter_scheduler.service.replies import KvMoves, Seen, to_status, to_topology

NOTHING_SEEN = Seen(frozenset(), {}, {})
PROFILE = {"name": "h100", "accelerator": "h100", "replicas": {"min": 0, "max": 4}}


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ({"scaleToZero": {"maxHeld": 7, "holdTimeout": "90s"}}, (7, 90_000)),
        ({"scaleToZero": {"maxHeld": 7}, "mode": "Manual"}, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_gateways_hear_how_many_requests_a_pool_at_zero_holds(
    scaling: dict[str, Any], told: tuple[int, int]
) -> None:
    pool = make_pool("chat", spec={"profiles": [PROFILE], "scaling": scaling})
    message = to_topology(Topology(1, (pool,), (), ()), NOTHING_SEEN, 64)
    assert [(p.max_held, p.hold_timeout_ms) for p in message.pools] == [told]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"source": "s3://models/llama", "tokenizer": "hf://org/llama"}, "hf://org/llama"),
        ({"source": "hf://org/llama"}, "hf://org/llama"),
    ],
)
def test_gateways_hear_where_the_tokenizer_is(model: dict[str, str], told: str) -> None:
    spec = {"profiles": [PROFILE], "model": model, "engine": {"type": "vllm"}}
    message = to_topology(Topology(1, (make_pool("chat", spec=spec),), (), ()), NOTHING_SEEN, 64)
    assert [(p.model_source, p.revision) for p in message.pools] == [(told, model["source"])]


@pytest.mark.parametrize(
    ("engine", "args", "parses"),
    [
        ("vllm", ["--reasoning-parser", "qwen3"], True),
        ("sglang", ["--reasoning-parser=deepseek-r1"], True),
        ("llamacpp", ["--reasoning-format", "deepseek"], True),
        ("llamacpp", ["--reasoning-format", "none"], False),
        ("vllm", [], False),
        ("openai", ["--reasoning-parser", "x"], False),
    ],
)
def test_gateways_hear_who_finds_the_parts_of_answers(
    engine: str, args: list[str], parses: bool
) -> None:
    model = {"source": "hf://org/llama/m.gguf", "parsers": {"toolCalls": "hermes"}}
    spec = {"profiles": [PROFILE], "model": model, "engine": {"type": engine, "args": args}}
    message = to_topology(Topology(1, (make_pool("chat", spec=spec),), (), ()), NOTHING_SEEN, 64)
    told = [
        (p.reasoning_parser, p.tool_call_parser, p.engine_parses_reasoning) for p in message.pools
    ]
    assert told == [("", "hermes", parses)]


def test_gateways_hear_where_a_rules_own_model_leads() -> None:
    rules = [
        {"name": "r", "when": {"models": ["auto", "chat"]}, "route": [{"pool": "code"}]},
        {"name": "c", "when": {"models": ["nowhere"]}, "class": "standard"},
    ]
    pools = (make_pool("chat"), make_pool("code"))
    topology = Topology(1, pools, (make_policy(rules=rules),), ())
    message = to_topology(topology, NOTHING_SEEN, 64)
    assert [(t.model, list(t.pools)) for t in message.rule_targets] == [("auto", ["code"])]
    assert list(message.rule_models) == ["auto", "chat", "nowhere"]


def test_gateways_hear_where_kv_caches_are_copied() -> None:
    instances = tuple(Instance(n, "chat", "h100", f"{n}:8000", "numpy") for n in ("a", "b"))
    seen = Seen(frozenset(), {}, {"b": KvMoves("float32 b16", "b:9000")})
    message = to_topology(Topology(1, (make_pool("chat"),), (), instances), seen, 64)
    told = [(i.name, i.kv_transport, i.moves_address) for i in message.instances]
    assert told == [("a", "", ""), ("b", "float32 b16", "b:9000")]


def test_status_says_how_well_times_are_predicted() -> None:
    cost = CostStatus("chat", "h100", "decode", 40, 1.5, 0.08, 0.02)
    told = to_status(ClusterStatus((), (), 0, 0, 0, 1, (cost,)), 0, "").costs
    assert [(c.pool, c.profile, c.kind, c.observations) for c in told] == [
        ("chat", "h100", "decode", 40)
    ]
    assert (told[0].correction, told[0].error_ratio, told[0].standard_error_ratio) == (
        1.5,
        0.08,
        0.02,
    )
