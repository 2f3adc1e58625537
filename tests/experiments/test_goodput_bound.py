"""The fluid bound of goodput, against what can be worked out by hand."""

from random import Random

import numpy as np
import pytest
from experiments.goodput_bound import most_kept
from hypothesis import given, settings
from hypothesis import strategies as st

INF = float("inf")


def test_all_are_kept_where_they_fit() -> None:
    assert most_kept(np.array([[1.0, 2.0]]), np.array([3.1])) == pytest.approx(2.0, abs=0.01)


def test_the_smallest_are_kept_where_not_all_fit() -> None:
    """The two of a second, and half of the one of four."""
    found = most_kept(np.array([[4.0, 1.0, 1.0]]), np.array([4.0]))
    assert found == pytest.approx(2.5, abs=0.01)


def test_each_goes_where_it_is_relatively_cheap() -> None:
    seconds = np.array([[1.0, 1.0, 3.0, 3.0], [4.0, 4.0, 3.0, 3.0]])
    assert most_kept(seconds, np.array([2.0, 6.0])) == pytest.approx(4.0, abs=0.02)


def test_who_misses_its_target_everywhere_is_not_kept() -> None:
    assert most_kept(np.array([[INF, 1.0], [INF, INF]]), np.array([9.0, 9.0])) == 1.0


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.01, 5.0)), min_size=1, max_size=20),
    st.tuples(st.floats(0.1, 20.0), st.floats(0.1, 20.0)),
    st.randoms(use_true_random=False),
)
def test_no_packing_keeps_more(
    seconds: list[tuple[float, float]], capacity_s: tuple[float, float], random: Random
) -> None:
    bound = most_kept(np.array(seconds).T, np.array(capacity_s))
    left, kept = list(capacity_s), 0
    for request in sorted(seconds, key=min):
        places = [n for n in (0, 1) if request[n] <= left[n]]
        if places:
            place = random.choice(places)
            left[place] -= request[place]
            kept += 1
    assert kept <= bound + 1e-6
