"""The recursive fit: where it gets from a wrong prior, and what it is not impressed by."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import cost_model, model_shape
from shunter_scheduler.costmodel.correction import Correction

RATES = cost_model(model_shape("llama-3.1-8b"), accelerator("a100")).linear()
MIDDLING = {"prefill": (1.0, 512.0, 131_072.0), "decode": (1.0, 16.0, 16_384.0)}
PRIOR = {"prefill": RATES.prefill, "decode": RATES.decode}

Draw = Callable[[Generator], tuple[float, float, float]]


def a_prefill(rng: Generator) -> tuple[float, float, float]:
    tokens = float(np.clip(rng.lognormal(6.5, 1.2), 16, 30_000))
    return 1.0, tokens, tokens * tokens / 2


def a_step(rng: Generator) -> tuple[float, float, float]:
    batch = float(rng.integers(1, 100))
    return 1.0, batch, batch * float(rng.uniform(200, 4000))


DRAW: dict[str, Draw] = {"prefill": a_prefill, "decode": a_step}


def seconds(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return float(np.dot(coefficients, features))


def observed(
    truth: Sequence[float], kind: str, rng: Generator, *, noise: float = 0.15, outliers: float = 0.0
) -> Iterator[tuple[tuple[float, float, float], float]]:
    """Features and noisy times; of `outliers` a share takes ten times as long."""
    while True:
        features = DRAW[kind](rng)
        taken_s = seconds(truth, features) * float(np.exp(noise * rng.standard_normal()))
        yield features, taken_s * (10 if rng.random() < outliers else 1)


def feed(
    correction: Correction, truth: Sequence[float], kind: str, rng: Generator, count: int
) -> None:
    stream = observed(truth, kind, rng, outliers=0.05)
    start = correction.count
    for i in range(count):
        features, taken_s = next(stream)
        correction.observe(features, taken_s, float(start + i))


def mean_error(correction: Correction, truth: Sequence[float], kind: str) -> float:
    """Of what is published, at points that were not observed."""
    rng = np.random.default_rng(999)
    points = [DRAW[kind](rng) for _ in range(200)]
    ratios = [seconds(correction.published, x) / seconds(truth, x) for x in points]
    return float(np.mean(np.abs(np.array(ratios) - 1)))


def corrections() -> dict[str, Correction]:
    return {kind: Correction(PRIOR[kind], MIDDLING[kind]) for kind in PRIOR}


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(PRIOR)),
    factor=st.floats(0.2, 5.0),
    own=st.tuples(*[st.floats(0.7, 1.4)] * 3),
    seed=st.integers(0, 1000),
)
def test_it_converges_from_a_factor_of_five_under_noise_and_outliers(
    kind: str, factor: float, own: tuple[float, ...], seed: int
) -> None:
    correction = corrections()[kind]
    truth = [p * factor * o for p, o in zip(PRIOR[kind], own, strict=True)]
    feed(correction, truth, kind, np.random.default_rng(seed), 200)
    assert mean_error(correction, truth, kind) < 0.15


@pytest.mark.parametrize("kind", sorted(PRIOR))
@pytest.mark.parametrize("factor", [1 / 3, 3.0])
def test_a_prior_that_is_three_times_off_is_near_after_200_steps(kind: str, factor: float) -> None:
    """Issue: within 15 %. The median of twenty seeds is within 5 %."""
    errors = []
    for seed in range(20):
        correction, truth = corrections()[kind], [factor * p for p in PRIOR[kind]]
        feed(correction, truth, kind, np.random.default_rng(seed), 200)
        errors.append(mean_error(correction, truth, kind))
    assert max(errors) < 0.15
    assert np.median(errors) < 0.05


@pytest.mark.parametrize("kind", sorted(PRIOR))
def test_what_changes_is_followed(kind: str) -> None:
    """As when a GPU throttles: everything takes three times as long from one moment on."""
    correction, rng = corrections()[kind], np.random.default_rng(3)
    feed(correction, PRIOR[kind], kind, rng, 300)
    slow = [3 * p for p in PRIOR[kind]]
    assert mean_error(correction, slow, kind) > 0.6
    feed(correction, slow, kind, rng, 60)
    assert mean_error(correction, slow, kind) < 0.15


@settings(deadline=None)
@given(position=st.integers(0, 60), seconds_lost=st.floats(1.0, 1e6))
def test_one_stall_does_not_move_it_far(position: int, seconds_lost: float) -> None:
    correction, rng = corrections()["decode"], np.random.default_rng(1)
    truth = PRIOR["decode"]
    stream = observed(truth, "decode", rng, noise=0.05)
    for i in range(100):
        features, taken_s = next(stream)
        correction.observe(features, taken_s + seconds_lost * (i == position), float(i))
        if i > 8:
            middling = seconds(correction.published, MIDDLING["decode"])
            assert middling == pytest.approx(seconds(truth, MIDDLING["decode"]), rel=0.35)
    assert mean_error(correction, truth, "decode") < 0.1


def test_a_coefficient_that_the_prior_has_as_nothing_is_learnt() -> None:
    truth = (0.05, 1e-4, 0.0)
    correction = Correction((0.05, 0.0, 0.0), MIDDLING["prefill"])
    feed(correction, truth, "prefill", np.random.default_rng(2), 400)
    assert mean_error(correction, truth, "prefill") < 0.1


@settings(deadline=None)
@given(
    kind=st.sampled_from(sorted(PRIOR)),
    times=st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.1, 1.0)), max_size=60),
    seed=st.integers(0, 100),
)
def test_whatever_is_observed_predictions_stay_positive_and_grow_with_the_work(
    kind: str, times: list[tuple[float, float]], seed: int
) -> None:
    correction, rng = corrections()[kind], np.random.default_rng(seed)
    for i, (taken_s, share) in enumerate(times):
        features = DRAW[kind](rng)
        correction.observe(features, taken_s, float(i), share)
        assert min(correction.fit) >= 0
        assert seconds(correction.fit, features) > 0
        assert 0 < correction.relative_error(features) < 100
        assert correction.standard_error(features) >= 0


def test_it_knows_what_it_does_not_know() -> None:
    """The standard error falls with observations, and is larger far from them."""
    correction = corrections()["prefill"]
    near, far = (1.0, 300.0, 45_000.0), (1.0, 60_000.0, 1.8e9)
    assert correction.relative_error(near) == Correction.PRIOR_ERROR
    rng = np.random.default_rng(4)
    errors = []
    for i in range(200):
        features = (1.0, tokens := float(rng.integers(100, 500)), tokens * tokens / 2)
        correction.observe(features, 2 * seconds(PRIOR["prefill"], features), float(i))
        errors.append(correction.standard_error(near))
    assert errors[-1] < 0.2 * errors[6]
    assert correction.standard_error(far) > 3 * correction.standard_error(near)


def test_the_error_of_a_single_time_is_what_was_seen() -> None:
    """Nine in ten lie within 1.64 of the stated standard deviations of it."""
    correction, rng = corrections()["decode"], np.random.default_rng(5)
    truth = [1.7 * p for p in PRIOR["decode"]]
    stream = observed(truth, "decode", rng, noise=0.2)
    for i in range(400):
        correction.observe(*next(stream), float(i))
    inside = 0
    for _ in range(500):
        features, taken_s = next(stream)
        predicted_s = seconds(correction.fit, features)
        off = abs(taken_s - predicted_s) / (predicted_s + Correction.OVERHEAD_S)
        inside += off < 1.64 * correction.relative_error(features)
    assert 0.82 < inside / 500 < 0.97


def test_it_is_published_in_steps_and_seldom() -> None:
    correction, rng = corrections()["decode"], np.random.default_rng(6)
    stream = observed([2 * p for p in PRIOR["decode"]], "decode", rng, noise=0.05)
    steps = [correction.observe(*next(stream), i * 0.01) for i in range(2000)]
    assert steps[0]
    assert sum(steps) < 20
    gaps = np.diff(np.flatnonzero(steps))
    assert gaps.min() * 0.01 >= Correction.INTERVAL_S - 1e-9


def test_of_many_observations_few_are_asked_for() -> None:
    correction = corrections()["decode"]
    used = 0
    for i in range(10_000):
        now = i * 1e-4
        if correction.wants(now):
            used += 1
            correction.observe(MIDDLING["decode"], 0.02, now)
    assert used <= Correction.FEW + 101


def test_the_mean_error_is_of_what_was_predicted() -> None:
    correction = corrections()["decode"]
    truth = [1.5 * p for p in PRIOR["decode"]]
    stream = observed(truth, "decode", np.random.default_rng(7), noise=0.0)
    correction.observe(*next(stream), 0.0)
    assert correction.mean_error == pytest.approx(0.5, rel=0.2)
    for i in range(200):
        correction.observe(*next(stream), float(i))
    assert correction.mean_error < 0.05
