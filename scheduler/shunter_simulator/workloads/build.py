"""From a scenario's workload to its requests."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import assert_never

import numpy as np
from msgspec.structs import replace

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import GeneratedLoad, generate
from shunter_simulator.workloads.hexgen import draw_workflows, generated_queries, read_hexgen
from shunter_simulator.workloads.labels import Label, label
from shunter_simulator.workloads.lengths import parse_length
from shunter_simulator.workloads.llumnix import LlumnixTrace
from shunter_simulator.workloads.prompts import TRACE_BLOCK_TOKENS
from shunter_simulator.workloads.resampled import any_window, superpose
from shunter_simulator.workloads.sessions import conversations
from shunter_simulator.workloads.spec import (
    AzureWorkload,
    GeneratedWorkload,
    HexgenWorkload,
    LabelSpec,
    LlumnixWorkload,
    MooncakeWorkload,
    StreamsWorkload,
    WorkloadSpec,
)
from shunter_simulator.workloads.streams import Lengths, Stream, draw_streams, only
from shunter_simulator.workloads.traces import read_azure, read_mooncake
from shunter_simulator.workloads.workflows import WorkflowPlan

AZURE_FILE = "azure/conv.csv.gz"
MOONCAKE_FILE = "mooncake/conversation.jsonl.gz"
_AZURE_RATE_PER_S, _MOONCAKE_RATE_PER_S, _HOUR_S = 5.5, 3.4, 3540.0
_AZURE_LIKE = GeneratedLoad(
    _AZURE_RATE_PER_S, 1.5, parse_length("lognormal/1155/0.96"), parse_length("lognormal/211/0.77")
)


@dataclass(frozen=True, slots=True)
class Workload:
    """`arrivals` in order of time, as often as they are gone through; `plan` says what follows them
    where they are workflows' first calls. `note` is what the reader of a result has to know, such
    as a missing trace."""

    arrivals: Collection[Arrival]
    plan: WorkflowPlan | None = None
    note: str = ""


def build_workload(spec: WorkloadSpec, seed: int, data_folder: Path | None = None) -> Workload:
    """The same specification, seed and data give the same requests. Traces are looked for in
    `data_folder`; what is not there is replaced by generated load of its shape, with a note.
    Raises `WorkloadError`."""
    rng = np.random.default_rng([seed, 0x5EED])
    match spec:
        case LlumnixWorkload():
            return Workload(_llumnix(spec).draw(seed))
        case HexgenWorkload():
            return _hexgen(spec, rng, data_folder)
        case AzureWorkload():
            trace, note = _azure_trace(rng, data_folder)
            drawn = superpose(trace, spec.rate, spec.duration_s, rng)
            return Workload(label(drawn, _labels(spec.labels), rng), note=note)
        case MooncakeWorkload():
            return _mooncake(spec, seed, rng, data_folder)
        case GeneratedWorkload():
            lengths = parse_length(spec.prompt), parse_length(spec.output)
            made = generate(GeneratedLoad(spec.rate, spec.cv, *lengths), spec.duration_s, rng)
            return Workload(label(made, _labels(spec.labels), rng))
        case StreamsWorkload():
            return _streams(spec, rng, data_folder)
        case _:
            assert_never(spec)


def _llumnix(spec: LlumnixWorkload) -> LlumnixTrace:
    return LlumnixTrace(
        spec.prompts,
        spec.outputs,
        spec.requests,
        spec.rate,
        spec.cv,
        spec.high_share,
        spec.high_class,
    )


def _hexgen(spec: HexgenWorkload, rng: np.random.Generator, folder: Path | None) -> Workload:
    file = f"hexgen/{spec.trace}.json.gz"
    if path := _found(folder, file):
        queries, note = read_hexgen(path), ""
    else:
        queries, note = generated_queries(96, np.random.default_rng(1)), _missing(file)
    drawn = draw_workflows(queries, spec.queries, spec.rate, rng, spec.deadline_s)
    plan = WorkflowPlan(drawn)
    return Workload(plan.first(), plan, note)


def _mooncake(
    spec: MooncakeWorkload, seed: int, rng: np.random.Generator, folder: Path | None
) -> Workload:
    if path := _found(folder, MOONCAKE_FILE):
        trace, note = read_mooncake(path, seed), ""
    else:
        trace, note = conversations(_MOONCAKE_RATE_PER_S, _HOUR_S, rng), _missing(MOONCAKE_FILE)
    drawn = any_window(trace, spec.speed, spec.duration_s, rng)
    if spec.max_prompt_tokens is not None:
        drawn = [_cut(a, spec.max_prompt_tokens) for a in drawn]
    return Workload(drawn, note=note)


def _cut(arrival: Arrival, tokens: int) -> Arrival:
    if arrival.prompt_tokens <= tokens:
        return arrival
    blocks = arrival.prefix_blocks[: -(-tokens // TRACE_BLOCK_TOKENS)]
    return replace(arrival, prompt_tokens=tokens, prefix_blocks=blocks)


def _streams(spec: StreamsWorkload, rng: np.random.Generator, folder: Path | None) -> Workload:
    trace, note = _azure_trace(rng, folder)
    streams = [
        Stream(
            one.rate,
            one.cv,
            one.slo_class,
            one.tenants,
            one.model,
            one.start_s,
            inf if one.end_s is None else one.end_s,
        )
        for one in spec.streams
    ]
    late = [s for s in streams if min(s.end_s, spec.duration_s) <= s.start_s]
    if late:
        raise WorkloadError(f"a stream of class {late[0].slo_class!r} ends before it starts")
    drawn = draw_streams(streams, _lengths_of(trace), spec.duration_s, rng)
    return Workload(only(drawn, spec.only) if spec.only else drawn, note=note)


def _lengths_of(trace: Sequence[Arrival]) -> Lengths:
    rows = [(a.prompt_tokens, a.output_tokens) for a in trace]
    return lambda rng, count: [rows[i] for i in rng.integers(0, len(rows), count).tolist()]


def _azure_trace(rng: np.random.Generator, folder: Path | None) -> tuple[list[Arrival], str]:
    if path := _found(folder, AZURE_FILE):
        return read_azure(path), ""
    return generate(_AZURE_LIKE, _HOUR_S, rng), _missing(AZURE_FILE)


def _labels(specs: Sequence[LabelSpec]) -> list[Label]:
    return [Label(one.share, one.slo_class, one.tenant, one.model) for one in specs]


def _found(folder: Path | None, file: str) -> Path | None:
    path = None if folder is None else folder / file
    return path if path is not None and path.exists() else None


def _missing(file: str) -> str:
    return f"no {file} ($SHUNTER_DATA): generated load of its shape"
