"""A trace at another rate and of another length than it was recorded."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shunter_simulator.workloads.arrivals import Arrival, scale, window
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import MAX_ARRIVALS


def superpose(
    trace: Sequence[Arrival], rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> list[Arrival]:
    """`duration_s` of the trace's requests at a mean rate of `rate_per_s`.

    As many copies as the rate needs run at once, more users of the same kind, each begun at a
    point of its own in the trace and repeated when it ends; time is stretched by what the whole
    number of copies leaves over. So bursts keep about their length, and seeds differ. Raises
    `WorkloadError` for more requests than fit.
    """
    if rate_per_s * duration_s > MAX_ARRIVALS:
        raise WorkloadError(f"{rate_per_s:g} requests/s for {duration_s:g} s are too many")
    times = np.array([a.at_s for a in trace])
    period_s = float(times[-1]) * (1 + 1 / max(1, len(times) - 1))  # a mean gap after the last
    if period_s <= 0:
        raise WorkloadError("a trace of a single instant cannot be repeated")
    native = len(times) / period_s
    copies = max(1, round(rate_per_s / native))
    speed = rate_per_s / (copies * native)
    columns = [_one_copy(times, period_s, speed, duration_s, rng) for _ in range(copies)]
    at = np.concatenate([column[0] for column in columns])
    row = np.concatenate([column[1] for column in columns])
    order = np.argsort(at, kind="stable")
    pairs = zip(at[order].tolist(), row[order].tolist(), strict=True)
    return [replace(trace[r], at_s=t) for t, r in pairs]


def _one_copy(
    times: NDArray[np.float64],
    period_s: float,
    speed: float,
    duration_s: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Instants within the duration, and which row of the trace each is."""
    passes = int(duration_s * speed / period_s) + 2
    shifted = times - rng.uniform(0.0, period_s)
    at = (shifted[None, :] + period_s * np.arange(passes)[:, None]).ravel() / speed
    rows = np.tile(np.arange(len(times)), passes)
    inside = (at >= 0) & (at < duration_s)
    return at[inside], rows[inside]


def any_window(
    trace: Sequence[Arrival], speed: float, duration_s: float | None, rng: np.random.Generator
) -> list[Arrival]:
    """A stretch of `duration_s` from anywhere in the trace `speed` times as fast; the whole of it
    where it is not longer. Blocks that were seen before the stretch are new in it."""
    fast = scale(trace, speed)
    spare_s = 0.0 if duration_s is None else fast[-1].at_s - duration_s
    return window(fast, rng.uniform(0.0, spare_s) if spare_s > 0 else 0.0, duration_s)
