"""Output lengths: against the true distribution, limits, drift, and the error that is reported."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.lengths import (
    HALF_LIFE,
    MAX_KEYS,
    LengthErrors,
    LengthModel,
    OutputLengths,
)
from shunter_scheduler.core.outlook import SHORTEST_REST
from shunter_scheduler.core.testing import CoreHarness, make_instances
from shunter_scheduler.domain.events import Finished, Progress

BUCKET = 2 ** (1 / 8)  # lengths are known to within one


def taught(lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> LengthModel:
    model = LengthModel(256)
    for length in lengths:
        model.observe(int(length), cut_short=False)
    return model


def lognormal(seed: int, count: int = 4000) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    drawn = np.random.default_rng(seed).lognormal(5.0, 1.0, count)
    return np.maximum(1, drawn).astype(np.int64)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("there", [0, 100, 400])
@pytest.mark.parametrize("prompt", [20, 200, 2000])
def test_mean_and_peak_are_those_of_the_distribution(seed: int, there: int, prompt: int) -> None:
    """Of a log-normal distribution, by a large sample of another seed: at each of its lengths, who
    is still alive times what that one then uses."""
    model = taught(lognormal(seed))
    truth = np.sort(lognormal(seed + 100, 400_000))
    longer = truth[truth > there]
    alive = np.arange(len(longer), 0, -1) / len(longer)
    peak = float((alive * (prompt + longer)).max())
    mean, reserved = model.forecast(there, 0, prompt)
    assert mean == pytest.approx(float(longer.mean()), rel=0.2)
    assert prompt + reserved == pytest.approx(max(peak, prompt + there), rel=0.12)


def test_of_lengths_that_do_not_vary_all_is_reserved_and_of_others_what_lives_to_use_it() -> None:
    model = LengthModel(256)
    for _ in range(300):
        model.observe(400, cut_short=False)
    assert 400 <= model.forecast(0, 0, 5000)[1] <= 400 * BUCKET * BUCKET
    for _ in range(150):
        for length in (1, 4000):
            model.observe(length, cut_short=False)
    small, large = model.forecast(0, 0, 10)[1], model.forecast(0, 0, 5000)[1]
    assert 800 < small < 4000, "a few get long, and a prompt that is short weighs nothing"
    assert large < 50, "by the time that some get long, more prompts have gone"


def test_before_anything_was_seen_the_default_counts() -> None:
    model = LengthModel(256)
    assert model.forecast(0, 0, 100) == (256, 256)
    assert model.forecast(0, 100, 100) == (100, 100)
    assert model.forecast(1000, 0, 100)[0] > 1100, "more than was expected is followed by more"


def test_one_length_is_learnt_at_once_and_capped() -> None:
    model = LengthModel(256)
    for _ in range(300):
        model.observe(40, cut_short=False)
    mean, reserved = model.forecast(0, 0, 100)
    assert mean == pytest.approx(40, rel=0.1)
    assert 40 <= reserved <= 40 * BUCKET * BUCKET
    assert model.forecast(0, 10, 100) == pytest.approx((10, 10), rel=1e-3)


@given(
    st.lists(st.tuples(st.integers(1, 200_000), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(0, 200_000),
)
def test_forecasts_stay_within_what_can_be(
    seen: list[tuple[int, bool]], there: int, more: int, prompt: int
) -> None:
    model = LengthModel(256)
    for tokens, cut_short in seen:
        model.observe(tokens, cut_short)
    free, later = model.forecast(there, 0, prompt), model.forecast(there + more, 0, prompt)
    for value, grown in zip(free, later, strict=True):
        assert math.isfinite(value) and there <= value
        assert grown >= value * (1 - 1e-9) / BUCKET, "what there is more of gets no shorter"
    limit = there + 1 + more
    for value in model.forecast(there, limit, prompt):
        assert there <= value <= limit
    assert all(type(value) in (int, float) for value in (*free, *model.forecast(0, 77, prompt)))
    longer_prompt = model.forecast(there, 0, 2 * prompt)[1]
    assert longer_prompt <= free[1] * (1 + 1e-6) + 1e-6, "what ends early frees the prompt too"


def test_an_answer_that_a_limit_cut_short_says_that_it_would_be_longer() -> None:
    """Half of the requests stop at 50 tokens by their own limit; the others are 400 long."""
    naive, knowing = LengthModel(256), LengthModel(256)
    for _ in range(200):
        for tokens, cut_short in ((50, True), (400, False)):
            naive.observe(tokens, cut_short=False)
            knowing.observe(tokens, cut_short)
    assert naive.forecast(0, 0, 100)[0] == pytest.approx(225, rel=0.1)
    assert knowing.forecast(0, 0, 100)[0] == pytest.approx(400, rel=0.1)
    assert knowing.forecast(0, 50, 100)[0] == pytest.approx(50, rel=0.1)


def test_older_answers_are_forgotten() -> None:
    model = LengthModel(256)
    for _ in range(4 * HALF_LIFE):
        model.observe(1000, cut_short=False)
    for _ in range(3 * HALF_LIFE):
        model.observe(100, cut_short=False)
    mean, reserved = model.forecast(0, 0, 100)
    assert mean == pytest.approx(100 + 900 / 9, rel=0.15), "an eighth of the old ones' weight"
    assert reserved == pytest.approx(100, rel=0.15)


def test_weights_do_not_overflow() -> None:
    model = LengthModel(256)
    for _ in range(30 * HALF_LIFE):
        model.observe(100, cut_short=False)
    assert model.forecast(0, 0, 100)[0] == pytest.approx(100, rel=0.1)


def test_the_table_is_bounded() -> None:
    lengths = OutputLengths(256)
    assert lengths.of("m", "batch") is lengths.of("m", "batch")
    models = {id(lengths.of(f"m{n}", "batch")) for n in range(MAX_KEYS + 100)}
    assert len(models) <= MAX_KEYS + 1
    assert lengths.of("new", "a") is lengths.of("newer", "b")


def test_errors_are_those_of_the_predictions() -> None:
    errors = LengthErrors()
    assert (errors.error_ratio, errors.longer_share) == (0.0, 0.0)
    for tokens in (50, 150):
        errors.observe(tokens, expected=100, reserved=120)
    assert errors.error_ratio == pytest.approx(0.5, rel=0.01)
    assert errors.longer_share == pytest.approx(0.5, rel=0.01)


# ------------------------------------------------------------ in the core


def test_memory_is_reserved_by_what_is_learnt_and_grows_with_the_answer() -> None:
    harness = CoreHarness(make_instances(1))
    for n in range(64):
        harness.start(f"r{n}", max_output_tokens=0)
        length = 50 if n % 8 else 2000
        harness.apply(Finished(f"r{n}", 1, length, "stop"))
    harness.start("x", max_output_tokens=0)
    (load,) = harness.loads().values()
    assert 1050 <= load.kv_tokens <= 1070, "seven of eight end there and give the prompt back"
    assert 200 <= load.decode_tokens <= 350, "time goes by the mean: 294"
    harness.apply(Progress("x", 1, 70))
    assert load.kv_tokens >= 1000 + 70 + SHORTEST_REST, "it outgrew that, and has room all the same"
    harness.apply(Progress("x", 1, 150))
    assert load.kv_tokens >= 1000 + 1800, "who is past 50 goes on to 2,000"
    before = load.kv_tokens
    for tokens in range(100, 1900, 100):
        harness.apply(Progress("x", 1, tokens))
        assert load.kv_tokens >= before, "what is reserved is not given away again"
        assert load.kv_tokens >= 1000 + tokens + SHORTEST_REST
        harness.check_books()


def test_the_status_reports_how_far_predictions_are_off() -> None:
    harness = CoreHarness(make_instances(1))
    harness.start("r0", max_output_tokens=0)
    harness.apply(Finished("r0", 1, 512, "stop"))
    (pool,) = harness.core.status(0.0).pools
    assert pool.output_length_error_ratio == pytest.approx(0.5, rel=0.01), "256 were expected"
    assert pool.output_longer_share == pytest.approx(1.0, rel=0.01)


def test_what_comes_within_some_steps_counts_those_that_end_before() -> None:
    lengths = taught(np.array([10, 1000] * 100))
    assert lengths.within(0, 5) == pytest.approx(5, rel=0.1)
    # Half of them end after 10 tokens.
    assert lengths.within(0, 500) == pytest.approx(0.5 * 10 + 0.5 * 500, rel=0.15)
    assert lengths.within(100, 500) == pytest.approx(500, rel=0.1)
    assert lengths.within(100, 5000) == pytest.approx(900, rel=0.15)


@given(st.lists(st.integers(1, 5000), max_size=80), st.integers(0, 3000), st.floats(0.1, 3000))
def test_what_comes_within_some_steps_is_no_more_than_these(
    ended: list[int], tokens: int, steps: float
) -> None:
    lengths = taught(np.array(ended, dtype=np.int64))
    found = lengths.within(tokens, steps)
    assert 0 <= found <= steps
    assert found <= lengths.within(tokens, 2 * steps) + (BUCKET - 1) * (tokens + steps)
