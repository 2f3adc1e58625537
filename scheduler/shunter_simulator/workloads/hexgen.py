"""Text-to-SQL workflows as HexGen-Flow publishes them: about 20 calls a query, in stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.files import open_text
from shunter_simulator.workloads.workflows import Stage, Workflow, in_stages

_RETRIEVE, _KEYWORDS, _GENERATE = "Information Retriever", "extract_keywords", "generate_candidate"
_REVISE, _TEST, _WRITE_TEST, _EVALUATE = "revise", "unit_tester", "generate_unit_test", "evaluate"
FAN_OUT = frozenset({_GENERATE, _EVALUATE})
"""Steps whose neighbouring calls run at once; all others wait for the one before."""
_BEGIN = (_RETRIEVE, _KEYWORDS, _RETRIEVE, _RETRIEVE, _RETRIEVE)
_END = (_TEST, _WRITE_TEST, _TEST, _EVALUATE, _TEST)
_STANDARD = (*_BEGIN, _GENERATE, _REVISE, *_END)

Query = tuple[Stage, ...]


class _Call(msgspec.Struct):
    step: str
    input_length: int
    output_length: int


class _Row(msgspec.Struct):
    calls: list[_Call] = msgspec.field(name="Text2SQLRequest")


def read_hexgen(path: Path) -> list[Query]:
    """The queries of a trace file of HexGen-Flow. Raises `WorkloadError`."""
    with open_text(path) as lines:
        try:
            rows = msgspec.json.decode(lines.read(), type=list[_Row])
        except msgspec.MsgspecError as error:
            raise WorkloadError(f"{path}: {error}") from error
    for number, row in enumerate(rows, 1):
        if not row.calls or any(min(c.input_length, c.output_length) < 1 for c in row.calls):
            raise WorkloadError(f"{path}, query {number}: no calls, or one of no tokens")
    if not rows:
        raise WorkloadError(f"{path}: no queries in it")
    return [_query([(c.step, c.input_length, c.output_length) for c in r.calls]) for r in rows]


def _query(calls: Sequence[tuple[str, int, int]]) -> Query:
    """A step may carry the name of the agent that runs it behind it."""
    short = [(_GENERATE if s.startswith(_GENERATE) else s, new, out) for s, new, out in calls]
    return in_stages(short, FAN_OUT, _STANDARD)


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Means and coefficients of variation, in tokens."""

    prompt: float
    prompt_cv: float
    output: float
    output_cv: float

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        return _lognormal(rng, self.prompt, self.prompt_cv), _lognormal(
            rng, self.output, self.output_cv
        )


# Of HexGen-Flow's trace1.
_STEPS: Mapping[str, _Lengths] = {
    _RETRIEVE: _Lengths(306, 0.014, 7.2, 1.16),
    _KEYWORDS: _Lengths(669, 0.029, 44, 0.30),
    _GENERATE: _Lengths(10_000, 0.19, 680, 0.29),
    _REVISE: _Lengths(5_954, 0.043, 82, 0.42),
    _TEST: _Lengths(275, 0.010, 4.7, 0.20),
    _WRITE_TEST: _Lengths(1_110, 0.11, 102, 0.28),
    _EVALUATE: _Lengths(960, 0.12, 29.5, 1.24),
}


def generated_queries(count: int, rng: np.random.Generator) -> list[Query]:
    """Queries of the trace's shape: its steps with their lengths, two candidates, up to nine
    revisions, four to six evaluations."""
    queries = []
    for _ in range(count):
        revisions, evaluations = int(rng.integers(0, 9)), int(rng.integers(4, 7))
        begin = _BEGIN if rng.random() < 2 / 3 else (_RETRIEVE,) * 4
        steps = [*begin, _GENERATE, _GENERATE, *[_REVISE] * revisions, *_END[:3]]
        steps += [*[_EVALUATE] * evaluations, _TEST]
        queries.append(_query([(step, *_STEPS[step].draw(rng)) for step in steps]))
    return queries


def _lognormal(rng: np.random.Generator, mean: float, cv: float) -> int:
    variance = float(np.log1p(cv * cv))
    drawn = float(rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance)))
    return max(1, round(drawn))


def draw_workflows(
    queries: Sequence[Query],
    count: int,
    rate_per_s: float,
    rng: np.random.Generator,
    deadline_s: float | None = None,
) -> list[Workflow]:
    """`count` workflows with Poisson arrivals. The queries come in a random order, all of them
    before any comes again, so that runs differ in order and not in how hard their queries are."""
    passes = -(-count // len(queries))
    order = np.concatenate([rng.permutation(len(queries)) for _ in range(passes)])[:count]
    times = np.cumsum(rng.exponential(1 / rate_per_s, count)).tolist()
    return [
        Workflow(f"query-{number}", at_s, queries[pick], deadline_s)
        for number, (at_s, pick) in enumerate(zip(times, order.tolist(), strict=True))
    ]
