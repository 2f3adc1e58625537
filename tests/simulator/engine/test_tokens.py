from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.engine import TokenRule
from shunter_simulator.engine.tokens import (
    MAX_NATURAL_TOKENS,
    MIN_NATURAL_TOKENS,
    advance,
    state_of,
)

TOKENS = st.lists(st.integers(0, 200_000), max_size=60)


@given(TOKENS)
def test_the_state_kept_token_by_token_is_that_of_the_whole_list(tokens: list[int]) -> None:
    state = 0
    for token in tokens:
        state = advance(state, token)
    assert state == state_of(tokens)


@given(TOKENS.filter(len), st.data())
def test_one_other_token_anywhere_is_another_state(tokens: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(tokens) - 1))
    other = data.draw(st.integers(0, 200_000).filter(lambda t: t != tokens[at]))
    assert state_of([*tokens[:at], other, *tokens[at + 1 :]]) != state_of(tokens)


@given(TOKENS)
def test_a_longer_list_of_zeros_is_another_state(tokens: list[int]) -> None:
    assert state_of([0, *tokens]) != state_of(tokens)


def generate(rule: TokenRule, prompt: list[int], count: int, seed: int | None = None) -> list[int]:
    state, out = state_of(prompt), []
    for _ in range(count):
        out.append(rule.next_token(state, seed))
        state = advance(state, out[-1])
    return out


def test_tokens_are_allowed_ones_and_all_of_them_come_up() -> None:
    rule = TokenRule(range(50, 70))
    counts = Counter(generate(rule, [1, 2, 3], 4000))
    assert set(counts) == set(range(50, 70))
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_seed_changes_the_tokens_and_fixes_them() -> None:
    rule = TokenRule(range(1000))
    greedy = generate(rule, [1], 20)
    assert generate(rule, [1], 20, seed=0) != greedy
    assert generate(rule, [1], 20, seed=1) != generate(rule, [1], 20, seed=0)
    assert generate(rule, [1], 20, seed=1) == generate(rule, [1], 20, seed=1)


def natural_length(rule: TokenRule, prompt: list[int]) -> int:
    state, output_tokens = state_of(prompt), 0
    while not rule.ends(state, None, output_tokens):
        state = advance(state, rule.next_token(state))
        output_tokens += 1
    return output_tokens


def test_natural_lengths_spread_between_their_bounds() -> None:
    rule = TokenRule(range(10, 1000), eos_token_id=2)
    lengths = [natural_length(rule, [i]) for i in range(400)]
    assert min(lengths) >= MIN_NATURAL_TOKENS
    assert max(lengths) <= MAX_NATURAL_TOKENS
    assert 100 < sum(lengths) / len(lengths) < 190
    assert len(set(lengths)) > 100


def test_without_an_end_token_answers_never_end_by_themselves() -> None:
    assert not TokenRule([1]).ends(0, None, 10_000)


@pytest.mark.parametrize(("allowed", "message"), [([], "no token ids"), ([1, 2], "end token 2")])
def test_a_rule_that_cannot_work_is_refused(allowed: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenRule(allowed, eos_token_id=2)
