"""A trace at another rate and of another length than it was recorded."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shunter_simulator.workloads.arrivals import Arrival, scale, window
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import MAX_ARRIVALS

_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Resampled(Collection[Arrival]):
    """Requests of `trace`, by their rows, at other instants; each is made when it is its turn, so
    that of a million only their rows and instants are here."""

    trace: Sequence[Arrival]
    rows: NDArray[np.int64]
    at_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Arrival]:
        for begin in range(0, len(self.rows), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            for row, at_s in zip(self.rows[part].tolist(), self.at_s[part].tolist(), strict=True):
                yield replace(self.trace[row], at_s=at_s)

    def __contains__(self, arrival: object) -> bool:
        return any(one == arrival for one in self)


def superpose(
    trace: Sequence[Arrival], rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> Resampled:
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
    return Resampled(trace, row[order], at[order])


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
