"""The splitter gives the same events wherever the bytes are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_gateway.engines.sse import EventTooLong, SseSplitter

STREAM = (
    b': hello\n\ndata: {"a":1}\n\ndata:{"b":2}\r\n\r\nevent: x\ndata: one\ndata: two\nid: 7\n\n'
    b"\n\ndata: \xe6\x9d\xb1\n\nretry: 5\n\ndata: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b'{"b":2}', b"one\ntwo", "東".encode(), b"[DONE]"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_split_point_gives_the_same_events(ending: bytes) -> None:
    stream = STREAM.replace(b"\r\n", b"\n").replace(b"\n", ending)
    for cut in range(len(stream) + 1):
        splitter = SseSplitter()
        events = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) + splitter.close()
        assert events == EVENTS, cut


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_many_cuts_give_the_same_events(cuts: list[int]) -> None:
    splitter = SseSplitter()
    events = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        events += splitter.feed(STREAM[start:end])
    assert events == EVENTS


def test_unfinished_event_at_the_end_is_dropped() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: half\n") == []
    assert splitter.close() == []


def test_endless_event_is_refused() -> None:
    splitter = SseSplitter(limit_bytes=100)
    with pytest.raises(EventTooLong):
        for _ in range(20):
            splitter.feed(b"data: 12345678")
