import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.policies.ranked import RankedPrefills

SLOTS = 4
AHEAD = st.dictionaries(st.integers(0, 3), st.floats(0.01, 5.0), max_size=3)


@given(
    st.lists(st.tuples(st.integers(0, SLOTS - 1), AHEAD, st.integers(-1, 3)), max_size=12),
    st.integers(0, 4),
)
def test_a_request_passes_what_is_of_lower_rank(
    puts: list[tuple[int, dict[int, float], int]], rank: int
) -> None:
    ranked, last, full = RankedPrefills(2), [dict[int, float]()] * SLOTS, [-1] * SLOTS
    ranked.grow(SLOTS)
    for slot, ahead, full_rank in puts:
        ranked.put_ahead(slot, ahead.items())
        ranked.put_full(slot, full_rank)
        last[slot], full[slot] = ahead, full_rank
    out = np.full(SLOTS, -7.0)
    passes = ranked.passed_s(rank, out)
    expected = [sum(s for below, s in ahead.items() if below < rank) for ahead in last]
    assert passes == any(expected)
    assert out.tolist() == (np.array(expected) if passes else np.full(SLOTS, -7.0)).tolist()
    assert ranked.any_full(rank) == (max(full) >= rank)
    for slot in range(SLOTS):
        ranked.clear(slot)
    assert not ranked.passed_s(9, out) and not ranked.any_full(0) and not ranked.slots
