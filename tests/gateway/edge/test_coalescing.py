"""Several tokens in one turn of uvloop's loop leave in two writes, in order."""

import asyncio

import uvloop

from recorded_stream import RecordingTransport, unopened_stream
from shunter_gateway.edge.job import Shape
from shunter_gateway.request import Delta, Outcome


async def burst() -> list[bytes]:
    stream = unopened_stream(Shape("chat", "r", "m", 1, stream=True))
    sink, transport = stream.sink(0), RecordingTransport()
    sink.on_delta(Delta("first"))
    stream.open(transport, chunked=True)
    await asyncio.sleep(0.01)
    for word in "abcdef":
        sink.on_delta(Delta(word))
    sink.on_done(Outcome("stop", 1, 7, 0))
    await asyncio.sleep(0.01)
    return transport.writes


def test_one_turn_two_writes() -> None:
    writes = uvloop.run(burst())
    assert len(writes) == 3  # what had gathered, the first of the burst, the rest of it
    text = b"".join(writes)
    words = [b'"content":"%b"' % word for word in (b"first", *(bytes([c]) for c in b"abcdef"))]
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert text.endswith(b"data: [DONE]\n\n\r\n")
    for write in writes:
        size, _, rest = write.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
