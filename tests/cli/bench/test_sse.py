from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.bench.sse import EventReader, StreamError

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b": keep-alive\n\n"
    b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
    b'data:{"choices":[{"text":"b","token_ids":[5]}]}\n\n'
    b'event: x\ndata: {"choices":[{"text":"","token_ids":[6]}]}\n\n'
    b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'
    b'data: {"choices":[{"text":"","finish_reason":"stop"}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_counted_wherever_the_network_cuts_them(cuts: list[int]) -> None:
    reader = EventReader()
    bounds = sorted({0, len(STREAM), *cuts})
    counts = [reader.feed(STREAM[a:b]) for a, b in pairwise(bounds)]
    assert sum(counts) == 4
    assert reader.done
    assert reader.usage is not None
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (3, 4)


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b'data: {"error":{"message":"engine lost"}}\n', "error event", "engine lost"),
        (b"data: {oops\n", "protocol", "not an OpenAI event"),
        (b'data: {"choices":[{"text":5}]}\n', "protocol", "choices"),
        (b"data: " + bytes(5 << 20), "protocol", "a line of more than"),
    ],
)
def test_an_error_in_the_stream_is_raised_with_its_kind(
    data: bytes, kind: str, detail: str
) -> None:
    with pytest.raises(StreamError, match=detail) as raised:
        EventReader().feed(data)
    assert raised.value.kind == kind
