"""Distributions of prompt and answer lengths, in tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.workloads.errors import WorkloadError

MAX_TOKENS = 10_000_000
FORMS = "a number, LOW-HIGH, exp/MEAN, lognormal/MEAN/CV"


@dataclass(frozen=True, slots=True)
class Length:
    """`draw(rng, n)` gives n lengths, each at least 1."""

    text: str
    draw: Callable[[np.random.Generator, int], NDArray[np.int64]]


def parse_length(text: str) -> Length:
    """`512`, `100-2000` (uniform), `exp/300`, `lognormal/1155/0.96` (mean and coefficient of
    variation). Raises `WorkloadError`."""
    name, *parts = text.split("/")
    try:
        numbers = [_number(p) for p in parts]
        sampler = _FAMILIES[name](*numbers) if parts else _range(*map(_number, name.split("-")))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(f"{text!r} is not a length; write {FORMS}") from error
    return Length(text, lambda rng, n: np.maximum(1, np.rint(sampler(rng, n))).astype(np.int64))


def _number(text: str) -> float:
    number = float(text)
    if not number <= MAX_TOKENS:  # neither is NaN
        raise ValueError(f"above {MAX_TOKENS}")
    return number


_Sampler = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _range(low: float, high: float | None = None) -> _Sampler:
    top = low if high is None else high
    if not 1 <= low <= top:
        raise ValueError("not a range")
    return lambda rng, n: rng.integers(int(low), int(top), n, endpoint=True).astype(np.float64)


def _exponential(mean: float) -> _Sampler:
    if mean < 1:
        raise ValueError("mean below 1")
    return lambda rng, n: rng.exponential(mean, n)


def _lognormal(mean: float, cv: float) -> _Sampler:
    if mean < 1 or cv < 0:
        raise ValueError("mean below 1 or negative variation")
    variance = float(np.log1p(cv * cv))
    return lambda rng, n: rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), n)


_FAMILIES: Mapping[str, Callable[..., _Sampler]] = {"exp": _exponential, "lognormal": _lognormal}
