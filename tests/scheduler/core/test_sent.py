"""What was sent to an engine, and how much of its time prefills take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.prefill_rate import PrefillRate
from shunter_scheduler.core.sent import Sent


def test_a_look_leaves_the_latest_of_what_it_does_not_show() -> None:
    sent = Sent()
    for tokens in (100, 200, 300):
        sent.add(tokens)
    assert (sent.requests, sent.kv_tokens) == (3, 600)
    sent.looked(not_shown=1)
    assert (sent.requests, sent.kv_tokens) == (1, 300)
    sent.add(50)
    assert (sent.requests, sent.kv_tokens) == (2, 350)
    sent.looked(not_shown=-4)  # others than ours run there
    assert (sent.requests, sent.kv_tokens) == (0, 0)


@given(st.lists(st.integers(1, 1000)), st.integers(-5, 400))
def test_never_more_tokens_than_requests_on_their_way_have(sizes: list[int], shown: int) -> None:
    sent = Sent()
    for size in sizes:
        sent.add(size)
    sent.looked(shown)
    assert sent.kv_tokens == sum(sizes[-shown:][-256:] if shown > 0 else [])


def test_steady_prefills_are_their_share_of_the_time() -> None:
    rate = PrefillRate()
    for number in range(2000):
        rate.add(0.1 * number, 0.03)
    assert rate.share == pytest.approx(0.3, rel=0.02)
    rate.forget(200.0 + PrefillRate.WINDOW_S)
    assert rate.share == pytest.approx(0.3 / 2.718, rel=0.05)


def test_more_than_fits_queues_and_does_not_count() -> None:
    rate = PrefillRate()
    for number in range(100):
        rate.add(0.1 * number, 5.0)
    assert rate.share == PrefillRate.MOST
