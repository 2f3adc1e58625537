from math import inf, nan

import numpy as np
import pytest

from shunter_simulator.reports.figures import Slo, summary


def test_percentiles_are_interpolated_linearly() -> None:
    s = summary(float(i) for i in range(1, 102))
    assert s is not None
    assert (s.mean, s.p50, s.p90, s.p95, s.p99, s.max, s.count) == (51, 51, 91, 96, 100, 101, 101)
    assert summary([]) is None


def test_an_array_is_summarised_as_a_list_is() -> None:
    values = [0.1, 0.7, 0.2]
    assert summary(np.array(values)) == summary(values)


@pytest.mark.parametrize(
    ("slo", "ttft_s", "tpot_s", "met"),
    [
        (Slo(1.0, 0.1), 1.0, 0.1, True),
        (Slo(1.0, 0.1), 1.01, 0.1, False),
        (Slo(1.0, 0.1), 1.0, 0.11, False),
        (Slo(1.0, 0.1), 1.0, nan, True),
        (Slo(1.0, 0.1), nan, nan, False),
        (Slo(inf, 0.1), 1e9, 0.1, True),
        (Slo(), nan, nan, False),
    ],
)
def test_an_answer_meets_its_targets_or_not(
    slo: Slo, ttft_s: float, tpot_s: float, met: bool
) -> None:
    assert slo.met([ttft_s], [tpot_s]).tolist() == [met]
