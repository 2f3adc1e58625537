import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2), ("10m", 600), ("24h", 86_400), ("1h30m", 5400), ("1.5s", 1.5)],
)
def test_reads_kubernetes_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "2 s", "-1s", "1d", "1s ", "1e3s", 5, 2.0, None])
def test_refuses_what_has_no_unit(text: object) -> None:
    with pytest.raises(ValueError, match="a number with a unit"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"]))
def test_the_unit_scales(count: int, unit: str) -> None:
    one = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert parse_duration(f"{count}{unit}") == pytest.approx(count * one)
