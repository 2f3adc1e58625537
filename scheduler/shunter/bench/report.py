"""From records to figures: pure arithmetic."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

import msgspec

from shunter.bench.records import Record
from shunter_simulator.reports.figures import Slo, Summary, summary

MAX_MISMATCHES_LISTED = 100


class Latencies(msgspec.Struct, frozen=True):
    """Of requests that succeeded. None where there is nothing to measure."""

    ttft_s: Summary | None
    tpot_s: Summary | None
    itl_s: Summary | None
    e2e_s: Summary | None


class Goodput(msgspec.Struct, frozen=True):
    """Requests that succeeded within both targets; failed ones are in the share's denominator."""

    slo_ttft_s: float
    slo_tpot_s: float
    requests: int
    requests_per_s: float
    share: float


class Figures(msgspec.Struct, frozen=True):
    """Of all requests, or of one model's."""

    ended: int
    succeeded: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    latencies: Latencies
    goodput: Goodput


class ErrorKind(msgspec.Struct, frozen=True):
    kind: str
    count: int
    example: str


class Mismatch(msgspec.Struct, frozen=True):
    index: int
    model: str
    what: str


class Generator(msgspec.Struct, frozen=True):
    """How well the load generator kept its own time."""

    lateness_s: Summary | None
    slot_wait_s: Summary | None


class RunFacts(msgspec.Struct, frozen=True):
    """What was replayed against what; enough to do it again."""

    url: str = ""
    trace: str = ""
    start_s: float = 0.0
    window_s: float = 0.0  # 0: to the trace's end
    speed: float = 1.0
    models: dict[str, float] = {}
    chat: bool = False
    exact_length: bool = True
    max_in_flight: int = 0
    seed: int = 0


class Report(msgspec.Struct, frozen=True):
    """`duration_s`: from the start to the last end."""

    run: RunFacts
    planned: int
    left_out: int
    interrupted: bool
    duration_s: float
    overall: Figures
    models: dict[str, Figures]
    errors: list[ErrorKind]
    mismatches_total: int
    mismatches: list[Mismatch]
    generator: Generator


@dataclass(frozen=True, slots=True)
class Scope:
    """`planned` counts the requests to send, ended or not; `left_out` those never meant to be."""

    planned: int
    left_out: int = 0
    interrupted: bool = False
    run: RunFacts = field(default_factory=RunFacts)


def build_report(records: Sequence[Record], slo: Slo, scope: Scope) -> Report:
    duration_s = max((r.due_s + r.end_s for r in records), default=0.0)
    mismatched = sorted((r for r in records if r.mismatch), key=lambda r: r.index)
    models = sorted({r.model for r in records})
    return Report(
        run=scope.run,
        planned=scope.planned,
        left_out=scope.left_out,
        interrupted=scope.interrupted,
        duration_s=duration_s,
        overall=_figures(records, slo, duration_s),
        models={m: _figures([r for r in records if r.model == m], slo, duration_s) for m in models},
        errors=_errors(records),
        mismatches_total=len(mismatched),
        mismatches=[
            Mismatch(r.index, r.model, r.mismatch) for r in mismatched[:MAX_MISMATCHES_LISTED]
        ],
        generator=Generator(
            summary(r.late_s for r in records), summary(r.slot_wait_s for r in records)
        ),
    )


def _figures(records: Sequence[Record], slo: Slo, duration_s: float) -> Figures:
    good = [r for r in records if not r.error]
    met = count_met(good, slo)
    output_tokens = sum(_output_tokens(r) for r in records)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    return Figures(
        ended=len(records),
        succeeded=len(good),
        prompt_tokens=sum(r.prompt_tokens or r.asked_prompt_tokens or 0 for r in good),
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens * per_s,
        requests_per_s=len(good) * per_s,
        latencies=Latencies(
            ttft_s=summary(r.first_token_s for r in good if r.first_token_s is not None),
            tpot_s=summary(t for r in good if (t := r.tpot_s) is not None),
            itl_s=summary(gap for r in good for gap in r.gaps_s),
            e2e_s=summary(r.end_s for r in good),
        ),
        goodput=Goodput(
            slo.ttft_s, slo.tpot_s, met, met * per_s, met / len(records) if records else 0.0
        ),
    )


def count_met(records: Sequence[Record], slo: Slo) -> int:
    """How many of these answers met both targets."""
    ttft_s = [_or_nan(r.first_token_s) for r in records]
    return int(slo.met(ttft_s, [_or_nan(r.tpot_s) for r in records]).sum())


def _or_nan(value: float | None) -> float:
    return nan if value is None else value


def _output_tokens(record: Record) -> int:
    return record.token_events if record.output_tokens is None else record.output_tokens


def _errors(records: Sequence[Record]) -> list[ErrorKind]:
    counts = Counter(r.error for r in records if r.error)
    examples = {r.error: r.detail for r in reversed(records)}
    return [ErrorKind(kind, count, examples[kind]) for kind, count in counts.most_common()]
