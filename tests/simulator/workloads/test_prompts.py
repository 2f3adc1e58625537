import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.workloads import Arrival, PromptTokens, WorkloadError


@given(
    st.integers(1, 3000),
    st.lists(st.integers(0, 10_000), max_size=6),
    st.integers(0, 10_000),
)
def test_a_prompt_has_exactly_its_length_of_ids_in_range(
    tokens: int, blocks: list[int], index: int
) -> None:
    prompt = PromptTokens(50, 60).of(Arrival(0.0, tokens, 1, tuple(blocks)), index)
    assert len(prompt) == tokens
    assert set(prompt) <= set(range(50, 60))


def test_prompts_share_what_their_blocks_share_and_nothing_more() -> None:
    prompts = PromptTokens()
    one = prompts.of(Arrival(0.0, 1500, 1, (1, 2, 3)), 0)
    two = prompts.of(Arrival(0.0, 1300, 1, (1, 2, 4)), 1)
    assert one[:1024] == two[:1024]
    assert one[1024:1040] != two[1024:1040]
    assert one[:16] != one[512:528]


def test_prompts_without_blocks_are_all_different_and_fixed_by_their_seed() -> None:
    def beginnings(seed: int) -> list[tuple[int, ...]]:
        prompts = PromptTokens(seed=seed)
        return [tuple(prompts.of(Arrival(0.0, 16, 1), i)) for i in range(300)]

    assert len(set(beginnings(0))) == 300
    assert beginnings(0) == beginnings(0)
    assert not set(beginnings(0)) & set(beginnings(1))


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(WorkloadError, match="5-5 are no range"):
        PromptTokens(5, 5)
