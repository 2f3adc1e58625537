from math import inf, log

import numpy as np
import pytest
from experiments.intervals import difference, mean, median, ratio, student


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)]
)
def test_students_quantile_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert student(degrees) == pytest.approx(quantile, abs=1e-3)


def test_a_constant_ratio_is_found_exactly() -> None:
    found = ratio([2.0, 20.0, 0.2], [1.0, 10.0, 0.1])
    assert (found.value, found.low, found.high, found.pairs) == pytest.approx((2, 2, 2, 3))


def test_a_ratio_and_its_inverse_say_the_same() -> None:
    ours, theirs = [1.0, 4.0, 3.0], [2.0, 3.0, 9.0]
    there, back = ratio(ours, theirs), ratio(theirs, ours)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)


def test_known_pairs_give_the_known_interval() -> None:
    found = difference([3.0, 5.0, 4.0, 8.0], [1.0, 1.0, 1.0, 1.0])  # 2, 4, 3, 7: mean 4, sd 2.160
    assert found.value == 4.0
    assert found.high - found.value == pytest.approx(3.182 * 2.1602 / 2, abs=1e-3)


def test_one_seed_says_nothing_about_others() -> None:
    assert (mean([3.0]).low, mean([3.0]).high) == (-inf, inf)
    found = ratio([3.0], [2.0])
    assert (found.value, found.low, found.high) == (1.5, 0.0, inf)


@pytest.mark.parametrize("pair", [([0.0], [1.0]), ([1.0], [inf]), ([1.0], [1.0, 2.0]), ([], [])])
def test_what_has_no_ratio_is_refused(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"positive|pairs"):
        ratio(*pair)


def test_the_median_of_ten_lies_between_the_second_and_the_ninth() -> None:
    found = median([float(x) for x in (9, 1, 2, 3, 4, 5, 6, 7, 8, 10)])
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)
    assert median([1.0, 2.0, 3.0, 4.0, 5.0]).low == -inf  # five cannot be that sure


def coverage(draws: np.ndarray, truth: float, kind: str) -> float:
    found = [ratio(row.tolist(), [1.0] * len(row)) for row in draws]
    if kind == "median":
        found = [median(row.tolist()) for row in draws]
    return float(np.mean([f.low <= truth <= f.high for f in found]))


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0])
def test_the_ratios_interval_covers_the_truth_as_often_as_it_says(spread: float) -> None:
    rng = np.random.default_rng(7)
    draws = np.exp(rng.normal(log(0.7), spread, (2000, 10)))
    assert coverage(draws, 0.7, "ratio") == pytest.approx(0.95, abs=0.015)


def test_it_does_so_for_heavier_tails_as_well_where_a_bootstrap_does_not() -> None:
    rng = np.random.default_rng(8)
    logs = rng.standard_t(4, (1500, 10))
    assert coverage(np.exp(logs), 1.0, "ratio") > 0.94
    picks = rng.integers(0, 10, (400, 10))
    resampled = logs[:, picks].mean(axis=2)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.93


def test_the_medians_interval_covers_it_for_any_shape() -> None:
    rng = np.random.default_rng(9)
    draws = rng.exponential(1.0, (2000, 10)) ** 3
    assert coverage(draws, log(2) ** 3, "median") == pytest.approx(0.979, abs=0.012)
