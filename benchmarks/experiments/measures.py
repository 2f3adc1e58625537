"""What is measured of a simulated run: one flat table of figures, the same for every experiment.

Times are in seconds. Requests that arrive during the warm-up are left out. Definitions are those of
the Llumnix paper where it has one: decode latency is (last - first token) / (tokens - 1) of each
request, preemption loss is summed and divided by all requests.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from experiments.fairness import service_gap
from shunter_simulator.virtual.results import Results

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CURVE_SHARES = np.concatenate([np.linspace(0, 0.9, 19), [0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 1]])
"""Of the quantiles in `curves`."""


def measure(results: Results) -> dict[str, float]:
    """Figures by name; a name with a dot is that of one class or one tenant."""
    arrived = results.columns["arrival_s"] >= results.warmup_s
    figures = {"duration_s": float(results.duration_s), "dollars": float(results.dollars)}
    there_s = sum(use.seconds for use in results.instances)
    figures["instances_mean"] = there_s / results.duration_s
    figures |= _requests(results, arrived) | _moves(results)
    for name in _used(results, "slo_class", arrived):
        chosen = arrived & (results.columns["slo_class"] == results.code("slo_class", name))
        figures |= _prefixed(name, _requests(results, chosen))
        tenants = _used(results, "tenant", chosen)
        if len(tenants) > 1:
            figures[f"{name}.service_gap_tokens"] = service_gap(results, chosen, tenants)
    for name in _used(results, "tenant", arrived):
        chosen = arrived & (results.columns["tenant"] == results.code("tenant", name))
        figures |= _prefixed(f"tenant {name}", _requests(results, chosen))
    return figures | _workflows(results, arrived)


def curves(results: Results) -> dict[str, list[float]]:
    """Quantiles at `CURVE_SHARES` of time to first token and of end-to-end time."""
    chosen = results.finished & (results.columns["arrival_s"] >= results.warmup_s)
    if not chosen.any():
        return {}
    columns = results.columns
    return {
        name: np.quantile(columns[name][chosen], CURVE_SHARES).tolist()
        for name in ("ttft_s", "e2e_s")
    }


def _requests(results: Results, chosen: Mask) -> dict[str, float]:
    columns, ended = results.columns, chosen & results.finished
    count = int(chosen.sum())
    figures: dict[str, float] = {"requests": count, "lost": count - int(ended.sum())}
    if not ended.any():
        return figures
    tokens = columns["output_tokens"][ended]
    ttft, e2e = columns["ttft_s"][ended], columns["e2e_s"][ended]
    many = tokens > 1
    decode = (e2e[many] - ttft[many]) / (tokens[many] - 1)
    figures |= summary("ttft", ttft) | summary("e2e", e2e) | summary("decode", decode)
    figures["preemptions"] = float(columns["preemptions"][ended].sum())
    figures["preemption_loss_s"] = float(columns["preemption_loss_s"][ended].sum()) / count
    figures["suspensions"] = float(columns["suspensions"][ended].sum())
    prompts = float(columns["prompt_tokens"][ended].sum())
    figures["hit_share"] = float(columns["cached_tokens"][ended].sum()) / prompts
    figures["tokens_per_s"] = (prompts + float(tokens.sum())) / results.duration_s
    met = _met(results) & ended
    arrivals = columns["arrival_s"][chosen]
    span_s = max(float(arrivals.max() - arrivals.min()), 1e-9)
    kept = int(met.sum())
    return figures | {"attainment": kept / count, "goodput_per_s": kept / span_s}


def summary(name: str, values: Floats) -> dict[str, float]:
    """Mean and percentiles, none of no values."""
    if not len(values):
        return {}
    figures = {f"{name}_mean_s": float(values.mean())}
    for percent in (50, 90, 95, 99):
        figures[f"{name}_p{percent}_s"] = float(np.quantile(values, percent / 100))
    return figures


def _met(results: Results) -> Mask:
    """Which requests kept every target that their class has in their pool."""
    columns = results.columns
    met = np.ones(len(columns["arrival_s"]), dtype=bool)
    after_first = np.maximum(columns["output_tokens"] - 1, 1)
    tpot = (columns["e2e_s"] - columns["ttft_s"]) / after_first
    for (pool, slo_class), targets in results.targets.items():
        of_both = (columns["pool"] == results.code("pool", pool)) & (
            columns["slo_class"] == results.code("slo_class", slo_class)
        )
        if targets.ttft_s is not None:
            met &= ~of_both | (columns["ttft_s"] <= targets.ttft_s)
        if targets.tpot_s is not None:
            met &= ~of_both | (tpot <= targets.tpot_s)
    return met


def _moves(results: Results) -> dict[str, float]:
    moved = [move for move in results.moves if move.moved]
    figures = {"moves": float(len(moved)), "moves_given_up": float(len(results.moves) - len(moved))}
    if moved:
        stalls = np.array([move.stall_s for move in moved])
        figures["stall_p99_s"] = float(np.quantile(stalls, 0.99))
        figures["stall_mean_s"] = float(stalls.mean())
    return figures


def _workflows(results: Results, arrived: Mask) -> dict[str, float]:
    """From a workflow's first arrival to its last end; only of those of which all calls ended."""
    columns, code = results.columns, results.columns["workflow"]
    names = [c for c in np.unique(code[arrived]).tolist() if results.names["workflow"][c]]
    took, unfinished, finished = [], 0, results.finished
    for name in names:
        own = code == name
        if finished[own].all():
            begin = columns["arrival_s"][own].min()
            took.append(float((columns["arrival_s"][own] + columns["e2e_s"][own]).max() - begin))
        else:
            unfinished += 1
    if not took:
        return {}
    return {"workflows_lost": float(unfinished)} | summary("workflow", np.array(took))


def _used(results: Results, column: str, chosen: Mask) -> list[str]:
    codes = np.unique(results.columns[column][chosen]).tolist()
    return [name for code in codes if (name := results.names[column][code])]


def _prefixed(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}.{key}": value for key, value in figures.items()}
