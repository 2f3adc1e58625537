import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_engine.backend import Sampling
from shunter_engine.numpy_products import F32
from shunter_engine.numpy_sampling import Context, sample, uniform

EMPTY = Context(token_ids=(), outputs=0)


def logits(*probabilities: float) -> F32:
    return np.log(np.array(probabilities, np.float32))


def drawn(row: F32, sampling: Sampling, draws: int = 2000) -> dict[int, float]:
    """Relative frequencies over positions."""
    contexts = (Context(token_ids=range(position), outputs=0) for position in range(draws))
    tokens = [sample(row, sampling, context).token_id for context in contexts]
    return {token: tokens.count(token) / draws for token in sorted(set(tokens))}


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert sample(logits(0.1, 0.4, 0.4, 0.1), Sampling(temperature=0), EMPTY).token_id == 1


def test_draws_follow_the_distribution() -> None:
    found = drawn(logits(0.5, 0.3, 0.2), Sampling(seed=7))
    assert found == pytest.approx({0: 0.5, 1: 0.3, 2: 0.2}, abs=0.04)


def test_temperature_sharpens() -> None:
    found = drawn(logits(0.6, 0.4), Sampling(seed=7, temperature=0.5))
    assert found == pytest.approx({0: 0.36 / 0.52, 1: 0.16 / 0.52}, abs=0.04)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(top_k=2), {0, 3}),
        (Sampling(top_p=0.7), {0, 3}),
        (Sampling(top_p=0.4), {0}),
        (Sampling(min_p=0.5), {0, 3}),
        (Sampling(top_k=3, top_p=0.99), {0, 2, 3}),
        (Sampling(top_p=1e-9), {0}),
    ],
)
def test_truncation(sampling: Sampling, left: set[int]) -> None:
    assert set(drawn(logits(0.45, 0.05, 0.2, 0.3), sampling, 500)) == left


def test_top_p_over_a_large_flat_vocabulary() -> None:
    """More tokens than are looked at first reach the goal."""
    found = drawn(np.zeros(5000, np.float32), Sampling(top_p=0.5), 2000)
    assert max(found) < 2500


@given(st.integers(), st.integers(0, 10**6))
def test_a_draw_is_in_range_and_repeats(seed: int, position: int) -> None:
    value = uniform(seed, position)
    assert 0 <= value < 1
    assert value == uniform(seed, position)


def test_draws_are_uniform_over_positions_and_over_seeds() -> None:
    for values in ([uniform(3, p) for p in range(4000)], [uniform(s, 9) for s in range(4000)]):
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert counts.min() > 320 and counts.max() < 480


def test_penalties_and_bias() -> None:
    row = np.array([2.0, 1.9, -1.0, 0.0], np.float32)
    prompt_and_outputs = Context(token_ids=(0, 2, 1, 1), outputs=2)

    def best(sampling: Sampling) -> int:
        return sample(row, sampling, prompt_and_outputs).token_id

    assert best(Sampling(temperature=0)) == 0
    assert best(Sampling(temperature=0, repetition_penalty=1.5)) == 0  # 1.33, 1.27, -1.5, 0
    assert best(Sampling(temperature=0, repetition_penalty=1e9)) == 0
    assert best(Sampling(temperature=0, logit_bias={3: 5.0, 99: 100.0})) == 3
    # Outputs only: token 0 is in the prompt and is not counted.
    assert best(Sampling(temperature=0, presence_penalty=-0.2)) == 1
    assert best(Sampling(temperature=0, frequency_penalty=-0.06)) == 1
    assert best(Sampling(temperature=0, frequency_penalty=2.0)) == 0


def test_banned_tokens_do_not_come() -> None:
    context = Context(token_ids=(), outputs=0, banned=(0, 1))
    row = logits(0.9, 0.05, 0.05)
    assert sample(row, Sampling(temperature=0), context).token_id == 2


def test_log_probabilities_are_the_models_own() -> None:
    row = logits(0.5, 0.3, 0.2) + np.float32(4)
    biased = Sampling(temperature=0, logit_bias={2: 50.0}, logprobs=2)
    got = sample(row, biased, EMPTY)
    assert got.token_id == 2
    assert got.logprob == pytest.approx(math.log(0.2))
    assert [token for token, _ in got.top_logprobs] == [0, 1]
    assert [math.exp(value) for _, value in got.top_logprobs] == pytest.approx([0.5, 0.3])
    assert sample(row, Sampling(logprobs=0), EMPTY).top_logprobs == ()
    assert sample(row, Sampling(), EMPTY).logprob is None
