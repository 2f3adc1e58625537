import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from shunter_simulator.workloads import (
    Arrival,
    Workload,
    WorkloadError,
    WorkloadSpec,
    build_workload,
    prefix_bound,
)

PARSER: TypeAdapter[WorkloadSpec] = TypeAdapter(WorkloadSpec)
KINDS: dict[str, dict[str, object]] = {
    "llumnix": {"prompts": "S", "outputs": "L", "rate": 4.0, "requests": 50},
    "hexgen": {"rate": 0.1, "queries": 7},
    "azure": {"rate": 3, "duration": "1m"},
    "mooncake": {"duration": "1m"},
    "generated": {"rate": 5, "duration": "30s"},
    "streams": {"duration": "30s", "streams": [{"rate": 4, "cv": 8}]},
}


def build(kind: str, seed: int = 0, folder: Path | None = None, **extra: object) -> Workload:
    spec = PARSER.validate_python({"kind": kind, **KINDS[kind], **extra})
    return build_workload(spec, seed, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_requests_in_order_and_another_seed_others(kind: str) -> None:
    first, again, other = (list(build(kind, seed).arrivals) for seed in (1, 1, 2))
    assert first and first == again and first != other
    assert [a.at_s for a in first] == sorted(a.at_s for a in first)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("llumnix", False),
        ("generated", False),
        ("hexgen", True),
        ("azure", True),
        ("mooncake", True),
        ("streams", True),
    ],
)
def test_a_missing_trace_is_replaced_and_said_so(kind: str, missing: bool, tmp_path: Path) -> None:
    note = build(kind, folder=tmp_path).note
    assert ("generated load of its shape" in note) is missing


def test_an_unknown_field_or_kind_is_refused() -> None:
    for wrong in ({"kind": "llumnix", **KINDS["llumnix"], "speed": 2}, {"kind": "wishes"}):
        with pytest.raises(ValidationError):
            PARSER.validate_python(wrong)


def azure_file(folder: Path, rows: int) -> None:
    lines = [
        f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0000000,{100 + i},{i + 1}" for i in range(rows)
    ]
    (folder / "azure").mkdir()
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines])
    (folder / "azure/conv.csv.gz").write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize("rate", [0.5, 1.0, 7.3])
def test_the_azure_trace_comes_at_any_rate_with_its_own_rows(tmp_path: Path, rate: float) -> None:
    azure_file(tmp_path, 600)  # one a second
    built = build("azure", folder=tmp_path, rate=rate, duration="30m")
    assert not built.note
    assert len(built.arrivals) == pytest.approx(rate * 1800, rel=0.01)
    assert all(a.prompt_tokens == 99 + a.output_tokens for a in built.arrivals)
    instants = [a.at_s for a in built.arrivals]
    assert instants[0] >= 0 and instants[-1] < 1800 and instants == sorted(instants)
    assert list(built.arrivals) == list(built.arrivals)  # as often as one likes
    counts = Counter(a.prompt_tokens for a in built.arrivals)
    assert (
        max(counts.values()) - min(counts.values()) <= round(rate + 0.5) + 1
    )  # no row is favoured


def test_labels_fall_by_their_shares() -> None:
    labels = [{"share": 3, "class": "a", "model": "big"}, {"share": 1, "tenant": "t"}]
    arrivals = build("azure", rate=20, duration="5m", labels=labels).arrivals
    marked = Counter((a.slo_class, a.tenant, a.model) for a in arrivals)
    assert set(marked) == {("a", "", "big"), ("", "t", "")}
    assert marked["a", "", "big"] / len(arrivals) == pytest.approx(0.75, abs=0.03)


STREAMS = [
    {"rate": 3, "cv": 8, "class": "interactive", "tenants": ["a", "b"]},
    {"rate": 6, "class": "batch"},
    {"rate": 30, "class": "batch", "tenants": ["flood"], "start": "20s", "end": "30s"},
]


def test_streams_keep_their_class_tenants_and_span() -> None:
    arrivals = build("streams", duration="200s", streams=STREAMS).arrivals
    flood = [a.at_s for a in arrivals if a.tenant == "flood"]
    assert len(flood) == pytest.approx(300, rel=0.25) and min(flood) >= 20 and max(flood) < 30
    assert {a.tenant for a in arrivals if a.slo_class == "interactive"} == {"a", "b"}


def test_one_class_alone_is_the_very_same_requests() -> None:
    together = build("streams", 3, duration="100s", streams=STREAMS).arrivals
    alone = build("streams", 3, duration="100s", streams=STREAMS, only="interactive").arrivals
    assert alone == [a for a in together if a.slo_class == "interactive"]


def test_a_stream_that_never_runs_is_refused() -> None:
    with pytest.raises(WorkloadError, match="'x' ends before it starts"):
        build("streams", streams=[{"rate": 1, "class": "x", "start": "1m"}])


def test_a_generated_conversation_shares_prefixes_like_the_trace() -> None:
    arrivals = build("mooncake", 1, duration=None).arrivals
    assert prefix_bound(arrivals, 512) == pytest.approx(0.374, abs=0.04)
    assert np.mean([a.prompt_tokens for a in arrivals]) == pytest.approx(12_035, rel=0.1)
    assert all(len(a.prefix_blocks) == -(-a.prompt_tokens // 512) for a in arrivals)


def test_long_prompts_are_cut_with_their_blocks() -> None:
    arrivals = build("mooncake", 1, maxPromptTokens=4000).arrivals
    assert max(a.prompt_tokens for a in arrivals) == 4000
    assert max(len(a.prefix_blocks) for a in arrivals) == 8


def test_the_bound_counts_leading_blocks_that_came_before() -> None:
    def ask(tokens: int, *blocks: int) -> Arrival:
        return Arrival(0.0, tokens, 1, blocks)

    assert prefix_bound([], 512) == 0.0
    shared = [ask(1024, 1, 2), ask(1100, 1, 2, 3), ask(1024, 9, 2)]  # 2 behind 9 is another block
    assert prefix_bound(shared, 512) == pytest.approx(1024 / 3148)


def test_hexgen_queries_run_in_the_traces_stages(tmp_path: Path) -> None:
    steps = ["extract_keywords", "generate_candidate_agent", "generate_candidate_agent", "evaluate"]
    calls = [{"step": s, "input_length": 5, "output_length": 2} for s in steps]
    (tmp_path / "hexgen").mkdir()
    content = json.dumps([{"Text2SQLRequest": calls}]).encode()
    (tmp_path / "hexgen/trace1.json.gz").write_bytes(gzip.compress(content))
    built = build("hexgen", folder=tmp_path, deadline="90s")
    assert built.plan is not None and not built.note
    first = next(iter(built.arrivals))
    assert (first.stage, first.workflow_deadline_s) == ("extract_keywords", 90.0)
    siblings = built.plan.ready(first.workflow, first.stage, 1.0)
    assert [a.stage for a in siblings] == ["generate_candidate"] * 2
    assert siblings[0].stages_left[0] == "revise"


@pytest.mark.parametrize("content", ["{}", "[]", '[{"Text2SQLRequest": []}]'])
def test_a_bad_hexgen_file_is_refused_with_its_place(tmp_path: Path, content: str) -> None:
    (tmp_path / "hexgen").mkdir()
    (tmp_path / "hexgen/trace1.json.gz").write_bytes(gzip.compress(content.encode()))
    with pytest.raises(WorkloadError, match=r"trace1\.json\.gz"):
        build("hexgen", folder=tmp_path)


def test_generated_queries_have_the_traces_shape() -> None:
    built = build("hexgen", 5, queries=96)
    assert built.plan is not None
    calls, running = [], list(built.arrivals)
    while running:
        call = running.pop()
        calls.append(call)
        running += built.plan.ready(call.workflow, call.stage, call.at_s)
    assert len(calls) / 96 == pytest.approx(19.2, rel=0.1)  # calls a query
    drafts = [c.prompt_tokens for c in calls if c.stage == "generate_candidate"]
    assert len(drafts) == 2 * 96 and np.mean(drafts) == pytest.approx(10_000, rel=0.1)
