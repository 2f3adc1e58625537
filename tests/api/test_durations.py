import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.durations import duration_text, parse_duration


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "500ms"),
        (2, "2s"),
        (90, "90s"),
        (1.2, "1.2s"),
        (300, "5m"),
        (86_400, "24h"),
        (0.0305, "30.5ms"),
    ],
)
def test_writes_a_short_text(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.floats(0.000_001, 30 * 86_400))
def test_what_is_written_is_read_back(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == pytest.approx(seconds, rel=1e-6)
