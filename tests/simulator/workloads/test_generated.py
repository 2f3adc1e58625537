from math import inf, nan

import numpy as np
import pytest

from shunter_simulator.workloads import GeneratedLoad, WorkloadError, generate, parse_length


def gaps(load: GeneratedLoad) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    arrivals = generate(load, 2000.0, np.random.default_rng(1))
    return np.diff([a.at_s for a in arrivals])


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_variation_asked_for(cv: float) -> None:
    drawn = gaps(GeneratedLoad(rate_per_s=10, cv=cv))
    assert drawn.mean() == pytest.approx(0.1, rel=0.1)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.1, abs=0.001)


def test_nothing_arrives_after_the_end_and_the_same_seed_gives_the_same() -> None:
    load = GeneratedLoad(rate_per_s=50)
    one, two = (generate(load, 10.0, np.random.default_rng(7)) for _ in range(2))
    assert one == two
    assert 0 < one[0].at_s < one[-1].at_s < 10


@pytest.mark.parametrize(
    ("text", "low", "high", "mean"),
    [
        ("512", 512, 512, 512),
        ("100-300", 100, 300, 200),
        ("exp/300", 1, 10_000, 300),
        ("lognormal/1000/0.5", 1, 100_000, 1000),
    ],
)
def test_lengths_follow_their_distribution(text: str, low: int, high: int, mean: float) -> None:
    drawn = parse_length(text).draw(np.random.default_rng(3), 20_000)
    assert low <= drawn.min()
    assert drawn.max() <= high
    assert drawn.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0",
        "-5",
        "9-3",
        "1-2-3",
        "exp",
        "exp/x",
        "exp/0",
        "normal/1/1",
        "exp/1/2",
        "inf",
        "1-inf",
        "exp/nan",
        "lognormal/inf/1",
        "1e9",
    ],
)
def test_a_length_that_cannot_be_read_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(WorkloadError, match=r"is not a length; write a number, LOW-HIGH"):
        parse_length(text)


@pytest.mark.parametrize(
    ("rate", "cv"), [(0, 1), (-1, 1), (1, -1), (inf, 1), (nan, 1), (1, inf), (1, nan)]
)
def test_impossible_load_is_refused(rate: float, cv: float) -> None:
    with pytest.raises(WorkloadError, match="must"):
        GeneratedLoad(rate_per_s=rate, cv=cv)


def test_load_without_end_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(WorkloadError, match=r"1e\+07 requests/s for 60 s are more than 10000000"):
        generate(GeneratedLoad(rate_per_s=1e7), 60.0, np.random.default_rng(0))
