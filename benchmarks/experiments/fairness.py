"""How far tenants drift apart in what they are served while both want more."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.virtual.results import Results

_STEP_S = 0.5

Floats = NDArray[np.float64]


def service_gap(results: Results, chosen: NDArray[np.bool_], tenants: Sequence[str]) -> float:
    """The largest difference in tokens served between two tenants of equal weight over a stretch
    in which both have requests that wait for their first token (Sheng et al., Fairness in Serving
    Large Language Models, OSDI 2024, section 4). Prompts count when the first token comes, answers
    evenly from then to their end; looked at every half second. `chosen`: the requests that count,
    such as those of one class, since a higher class goes first whosever it is."""
    grid = np.arange(0.0, results.duration_s + _STEP_S, _STEP_S)
    ended = chosen & results.finished
    tables = [_tenant(results, ended, name, grid) for name in tenants]
    worst = 0.0
    for (served, waiting), (other, also_waiting) in combinations(tables, 2):
        worst = max(worst, _widest(served - other, waiting & also_waiting))
    return worst


def _tenant(
    results: Results, ended: NDArray[np.bool_], name: str, grid: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Tokens served until each instant, and whether something waits then."""
    columns = results.columns
    own = (columns["tenant"] == results.code("tenant", name)) & ended
    arrival = columns["arrival_s"][own]
    first, end = arrival + columns["ttft_s"][own], arrival + columns["e2e_s"][own]
    served = _step(first, columns["prompt_tokens"][own], grid)
    served += _ramp(first, np.maximum(end, first + 1e-9), columns["output_tokens"][own], grid)
    waiting = np.searchsorted(np.sort(arrival), grid, "right") - np.searchsorted(
        np.sort(first), grid, "right"
    )
    return served, waiting > 0


def _step(at: Floats, amount: NDArray[np.int32], grid: Floats) -> Floats:
    order = np.argsort(at)
    sums = np.concatenate([[0.0], np.cumsum(amount[order], dtype=np.float64)])
    return np.asarray(sums[np.searchsorted(at[order], grid, "right")])


def _ramp(start: Floats, end: Floats, amount: NDArray[np.int32], grid: Floats) -> Floats:
    """Sum of lines from 0 at `start` to `amount` at `end`: each is rate * (t - start) from its
    start on less rate * (t - end) from its end on."""
    rate = amount / (end - start)
    return _hinge(start, rate, grid) - _hinge(end, rate, grid)


def _hinge(at: Floats, rate: Floats, grid: Floats) -> Floats:
    order = np.argsort(at)
    rates = np.concatenate([[0.0], np.cumsum(rate[order])])
    moments = np.concatenate([[0.0], np.cumsum(rate[order] * at[order])])
    count = np.searchsorted(at[order], grid, "right")
    return np.asarray(rates[count] * grid - moments[count])


def _widest(drift: Floats, both: NDArray[np.bool_]) -> float:
    """The largest spread of `drift` within one run of instants at which both wait."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], both, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return max((float(np.ptp(drift[begin:end])) for begin, end in runs), default=0.0)
