"""The replay that alpha is tuned by, against what can be worked out by hand."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.policies.replay import EngineSpeed, PastRequest, Replay

FAST = EngineSpeed(0.0, 0.001, 0.01, 0.001, 0.0, 0.026)
SLOW = EngineSpeed(0.0, 0.004, 0.04, 0.004, 0.0, 0.104)
ALPHAS = tuple(n / 10 for n in range(11))


def past(at_s: float, prompt: int, output: int, group: str, ended_at_s: float = 0.0) -> PastRequest:
    return PastRequest(at_s, ended_at_s or at_s + 1.0, prompt, output, group)


def tail_s(window: list[PastRequest], engines: list[EngineSpeed], alpha: float = 0.5) -> float:
    replay = Replay(window, engines, alpha)
    while not replay.run(7):
        pass
    return replay.tail_s()


def test_one_request_takes_its_prefill_and_its_steps() -> None:
    assert tail_s([past(5.0, 1000, 100, "a")], [FAST]) == pytest.approx(1.0 + 100 * 0.011)


def test_a_prefill_stops_the_others_and_sequences_slow_each_other() -> None:
    """b comes when a has decoded a second of 0.011 s steps; its prefill takes a second, and then
    both decode at 0.012 s a step until a is done."""
    window = [past(0.0, 1000, 200, "a"), past(2.0, 1000, 1, "b")]
    decoded = 1.0 / 0.011
    b_ends = 3.0 + 0.012
    a_ends = b_ends + (200 - decoded - 1) * 0.011
    assert tail_s(window, [FAST]) == pytest.approx(a_ends)


def test_a_stage_comes_as_long_after_those_before_it_as_it_did() -> None:
    window = [
        past(0.0, 1000, 1, "w", ended_at_s=10.0),
        past(0.0, 1000, 1, "w", ended_at_s=20.0),
        past(20.5, 1000, 1, "w", ended_at_s=30.0),
    ]
    first_two = 2.0 + 0.012  # one prefill after the other; the first waits for the second's
    assert tail_s(window, [FAST]) == pytest.approx(first_two + 0.5 + 1.011, abs=0.01)


def test_pieces_do_not_change_the_outcome() -> None:
    rng = np.random.default_rng(1)
    window = [past(float(t), 500, 50, f"g{n % 20}") for n, t in enumerate(rng.uniform(0, 60, 100))]
    whole, pieces = (Replay(window, [FAST, SLOW, SLOW], 0.4) for _ in range(2))
    assert whole.run(10_000)
    while not pieces.run(1):
        pass
    assert whole.tail_s() == pieces.tail_s()


def poisson(rate: float, seed: int) -> list[PastRequest]:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, 300))
    return [past(float(t), int(rng.integers(200, 2000)), 60, f"r{n}") for n, t in enumerate(at)]


@pytest.mark.parametrize("seed", range(3))
def test_speed_decides_where_there_is_no_load_and_work_where_there_is(seed: int) -> None:
    engines = [FAST, SLOW, SLOW, SLOW]
    light, heavy = (
        min(ALPHAS, key=partial(tail_s, poisson(rate, seed), engines)) for rate in (0.1, 1.4)
    )
    assert light >= 0.5 > heavy


@given(
    at=st.lists(st.floats(0, 100), min_size=1, max_size=30),
    alpha=st.sampled_from(ALPHAS),
    groups=st.integers(1, 5),
)
def test_everything_ends_and_takes_no_less_than_alone(
    at: list[float], alpha: float, groups: int
) -> None:
    window = [past(t, 100, 10, f"g{n % groups}") for n, t in enumerate(at)]
    assert tail_s(window, [FAST, SLOW], alpha) >= 0.1 + 10 * 0.011 - 1e-6
