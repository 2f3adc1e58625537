"""Encoded text leaves as the bytes that its delta leaves as."""

import asyncio
from dataclasses import replace

import msgspec
import uvloop

from recorded_stream import RecordingTransport, unopened_stream
from shunter_gateway.edge.job import Shape
from shunter_gateway.request import Delta, JsonTextSink, Outcome

WORDS = ["first", " second", ' "third"\n', " 東京", " 100 %d"]
TURN_S = 0.003  # uvloop's clock counts milliseconds


async def written(kind: str, encoded: bool, chunked: bool, apart: bool) -> bytes:
    stream = unopened_stream(Shape(kind, "r", "50%b of m", 1, stream=True))  # type: ignore[arg-type]
    sink, transport = stream.sink(0), RecordingTransport()
    sink.on_delta(Delta(WORDS[0]))
    stream.open(transport, chunked)
    assert isinstance(sink, JsonTextSink)
    send = sink.json_text_send()
    assert send is not None
    for word in WORDS[1:]:
        if apart:
            await asyncio.sleep(TURN_S)
        if encoded:
            send(msgspec.json.encode(word))
        else:
            sink.on_delta(Delta(word))
    sink.on_done(Outcome("stop", 1, len(WORDS), 0))
    await asyncio.sleep(TURN_S)
    return transport.written


def test_encoded_text_is_the_same_on_the_wire() -> None:
    for kind in ("chat", "completion"):
        for chunked, apart in ((True, True), (False, True), (False, False)):
            given = uvloop.run(written(kind, True, chunked, apart))
            assert given == uvloop.run(written(kind, False, chunked, apart))
            assert given.count(b"data: {") >= len(WORDS)


def test_no_encoded_text_where_a_delta_is_more() -> None:
    async def sender(shape: Shape) -> object:
        sink = unopened_stream(shape).sink(0)
        assert isinstance(sink, JsonTextSink)
        sink.on_delta(Delta("a", (1,)))
        return sink.json_text_send()

    shape = Shape("chat", "r", "m", 1, stream=True)
    for more in (replace(shape, token_ids=True), replace(shape, logprobs=True)):
        assert uvloop.run(sender(more)) is None
