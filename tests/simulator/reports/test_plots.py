from pathlib import Path

import numpy as np
import pytest

from shunter_simulator.reports.plots import PlotError, cumulative, load_over_time, save_panels


def test_load_over_time_counts_arrivals_and_ends() -> None:
    times, in_flight, rate = load_over_time([0.0, 0.5, 1.5], [2.0, 1.0, 4.0])
    assert times.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert in_flight.tolist() == [1, 1, 1, 0]
    assert rate.tolist() == [2, 1, 0, 0]


def test_a_long_distribution_is_thinned_and_keeps_its_ends() -> None:
    x, y = cumulative(np.arange(100_000, 0, -1))
    assert len(x) <= 2000
    assert (x[0], x[-1]) == (1, 100_000)
    assert y[-1] == 1
    assert np.all(np.diff(x) > 0)


def test_panels_are_the_same_file_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        save_panels([lambda axes: axes.plot([1, 2])], path, "title")
    assert first.read_bytes() == second.read_bytes()


def test_a_plot_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="cannot write the plot"):
        save_panels([lambda axes: axes.plot([1, 2])], tmp_path / "no" / "folder.png")
