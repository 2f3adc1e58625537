"""Plain tokens take a way of their own; what comes out is what the general way gives."""

import asyncio
import itertools
import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.engines.completions import CompletionsAdapter, CompletionsDecoder
from shunter_gateway.engines.connection import Connection, Exchange, HttpLimits, ResponseHandler
from shunter_gateway.engines.plain import PlainReads, learn
from shunter_gateway.engines.sse import SseSplitter
from shunter_gateway.ports import Capabilities
from shunter_gateway.request import Delta
from shunter_gateway.testing import CountingObserver, LetterDecoders, ManualClock, RecordingSink
from shunter_gateway.testing_scheduler import FakeScheduler, topology_message
from shunter_gateway.testing_world import SPEC
from shunter_gateway.topology import Pool
from shunter_text.detokenizer import StreamDecoder
from shunter_text.sources import sim_tokenizer

TOKENIZER = sim_tokenizer()
WORDS = TOKENIZER.encode("a plain answer of some words")
PARTS = TOKENIZER.encode("東京 🚂 é")  # some are parts of characters
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CAPABILITIES = Capabilities(True, True, True, True, True, False)


class SimDecoders(LetterDecoders):
    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return TOKENIZER.decoder(context_ids)


@dataclass(slots=True)
class JsonSink(RecordingSink):
    """Takes encoded text too."""

    encoded: int = 0

    def json_text_send(self) -> Any:
        def send(text: bytes) -> None:
            self.encoded += 1
            self.on_delta(Delta(json.loads(text)))

        return send


class Transport(asyncio.Transport):
    closed = False

    def write(self, data: object) -> None: ...
    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


@dataclass
class Client:
    """One connection for each exchange, fed by hand (stands in for `HttpClient`)."""

    clock: ManualClock
    limits: HttpLimits = field(default_factory=HttpLimits)
    connections: list[Connection] = field(default_factory=list)

    def time(self) -> float:
        return self.clock.time()

    def post(
        self, address: str, path: str, body: bytes, handler: ResponseHandler, *_: object
    ) -> Exchange:
        exchange = Exchange(self, address, b"", handler, 1.0)
        connection = Connection(self, address)
        connection.connection_made(Transport())
        connection.send(exchange)
        self.connections.append(connection)
        return exchange

    def forget(self, exchange: Exchange) -> None: ...
    def reconnect(self, exchange: Exchange) -> None: ...
    def release(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


def answer(
    reads: list[bytes], sink: RecordingSink, leave_at: int | None = None, **changes: Any
) -> tuple[list[str], list[int], object]:
    """What the client and the journal have after these reads of one engine call."""
    clock = ManualClock()
    client = Client(clock)
    scheduler = FakeScheduler(clock, topology_message({"chat-0": "chat"}))
    dispatcher = Dispatcher(
        clock=clock,
        link=scheduler,
        adapters={"simulated": CompletionsAdapter("simulated", CAPABILITIES, client)},  # type: ignore[arg-type]
        decoders=SimDecoders(),
        observer=CountingObserver(),
        rng=random.Random(1),
    )
    scheduler.connect(dispatcher)
    handle: Any = dispatcher.submit(replace(SPEC, **changes), sink)
    clock.advance(0)
    connection = client.connections[0]
    for index, read in enumerate(reads):
        if index == leave_at:
            handle.answer.journal.vacate(handle.epoch)  # another took over
        connection.data_received(read)
    ids = list(handle.answer.journal.token_ids())
    return [delta.text for delta in sink.deltas], ids, (sink.outcome, sink.error)


def event(ids: list[int], text: str = "", reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    value = {"id": "cmpl-1", "choices": [{**choice, "stop_reason": None, "token_ids": ids}]}
    return b"data: " + json.dumps({**value, **more}, separators=(",", ":")).encode() + b"\n\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


texts = st.sampled_from(
    ["", " word", 'a "b"', "\n", "é東", '"token_ids":[5],', "\\", " a longer one"]
)
plain_events = st.builds(lambda i, t: event([i], t), st.sampled_from(WORDS + PARTS), texts)
events = st.one_of(
    plain_events,
    plain_events,
    plain_events,
    st.builds(event, st.lists(st.sampled_from(WORDS + PARTS), max_size=3), texts),
    st.builds(lambda t: event(WORDS[:1], t, "length"), texts),
    st.sampled_from(
        [
            event(WORDS[:1], usage={"prompt_tokens": 3, "completion_tokens": 1}),
            event(WORDS[:1]).replace(b'"id"', b'"other"'),
            event(WORDS[:1]).replace(b"[%d]" % WORDS[0], b"[007]"),
            event([1 << 31]),
            event(WORDS[:1]).replace(b"\n\n", b"\r\n\r\n"),
            event(WORDS[:1])[:-1],  # its end comes later, or never
            b": a comment\n\n",
            b"data: [DONE]\n\n",
            b"data: nonsense\n\n",
            b'data: {"error":{"message":"no"}}\n\n',
        ]
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Reads of one answer: most are one chunk of one event, others are cut or joined anywhere."""
    bodies = [event(WORDS[:1]), *draw(st.lists(events, max_size=16))]
    if draw(st.booleans()):  # chunks that are cut elsewhere than events
        joined = b"".join(bodies)
        cuts = draw(st.lists(st.integers(1, len(joined)), max_size=4))
        bodies = [joined[a:b] for a, b in itertools.pairwise(sorted({0, *cuts, len(joined)}))]
    chunks = [chunk(body) for body in bodies]
    if draw(st.booleans()):
        chunks.append(b"0\r\n\r\n")
    stream = b"".join(chunks)
    edges = set(itertools.accumulate(map(len, chunks)))
    edges -= draw(st.sets(st.sampled_from(sorted(edges)), max_size=3))
    edges |= set(draw(st.lists(st.integers(1, len(stream)), max_size=3)))
    return [HEAD, *(stream[a:b] for a, b in itertools.pairwise(sorted({0, *edges, len(stream)})))]


@settings(max_examples=150, deadline=None)
@given(streams(), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 20)))
def test_plain_way_gives_what_the_general_way_gives(
    reads: list[bytes], max_tokens: int, leave_at: int | None
) -> None:
    plain = answer(reads, JsonSink(), leave_at, max_tokens=max_tokens)
    assert plain == answer(reads, RecordingSink(), leave_at, max_tokens=max_tokens)


def test_tokens_of_a_steady_stream_are_plain() -> None:
    sink = JsonSink()
    reads = [
        HEAD,
        *(chunk(event([i], " any")) for i in WORDS),
        chunk(event([WORDS[0]], "", "stop")),
    ]
    words, ids, _ = answer([*reads, b"0\r\n\r\n"], sink, max_tokens=100)
    assert "".join(words) == TOKENIZER.decode([*WORDS, WORDS[0]])
    assert ids[-len(WORDS) - 1 :] == [*WORDS, WORDS[0]]
    assert sink.encoded == len(WORDS) - 2  # the first is learnt from, the second finds the border
    assert sink.outcome is not None and sink.outcome.output_tokens == len(WORDS) + 1


@pytest.mark.parametrize("changes", [{"stop": ("never",)}, {"max_tokens": 2}])
def test_what_needs_more_than_ids_is_not_plain(changes: dict[str, Any]) -> None:
    sink = JsonSink()
    answer([HEAD, *(chunk(event([i])) for i in WORDS)], sink, **changes)
    assert sink.deltas and not sink.encoded


@pytest.mark.parametrize(
    "other",
    [
        event([1, 2]),
        event([]),
        event([1], "", "stop"),
        event([1], 'a "b"'),
        event([1], usage={"prompt_tokens": 1}),
        b'data: {"choices":[{"token_ids":[1]}]}\n\n',
        b'data: {"text":"","token_ids":[1],"choices":[{"token_ids":[1]}]}\n\n',
    ],
)
def test_nothing_is_learnt_from_other_events(other: bytes) -> None:
    decode = CompletionsDecoder().event
    assert learn(event([1])[6:-2], decode) is not None
    assert learn(other[6:-2], decode) is None


STEADY = [HEAD, *(chunk(event([i])) for i in WORDS[:4])]
NEXT = chunk(event([WORDS[4]]))
CUT = event([WORDS[0]])
END = chunk(event([WORDS[0]], "", "stop")) + b"0\r\n\r\n"
HARD = {
    "an event is held back": [chunk(b"data: {"), NEXT, NEXT],
    "a comment is held back": [chunk(b": half"), NEXT, chunk(b"\n\n"), NEXT],
    "a character is unfinished": [chunk(event([i])) for i in [*PARTS[:1], WORDS[0], *PARTS]],
    "text holds what looks like ids": [chunk(event([1]).replace(b'"text":"', b'"text":"x"'))],
    "inside of a chunk": [b"%x\r\n%b" % (len(CUT) + len(NEXT), CUT), NEXT, b"\r\n" + END],
    "inside of a size": [b"1", NEXT, NEXT],
}


@pytest.mark.parametrize("reads", HARD.values(), ids=HARD.keys())
def test_plain_way_is_left_where_more_is_under_way(reads: list[bytes]) -> None:
    plain = answer([*STEADY, *reads], JsonSink(), max_tokens=100)
    assert plain == answer([*STEADY, *reads], RecordingSink(), max_tokens=100)


def test_tokens_of_an_earlier_owner_are_dropped() -> None:
    sink = JsonSink()
    words, ids, _ = answer([*STEADY, NEXT, NEXT], sink, leave_at=len(STEADY), max_tokens=100)
    assert ids[-4:] == WORDS[:4]
    assert "".join(words) == TOKENIZER.decode(WORDS[:4])


def test_a_field_between_text_and_ids_is_not_taken_for_text() -> None:
    shape = learn(event([1])[6:-2], CompletionsDecoder().event)
    assert shape is not None
    taken: list[bytes] = []

    def take(digits: bytes) -> bool:
        taken.append(digits)
        return True

    reads = PlainReads(shape, SseSplitter(), take)
    assert reads.read(chunk(event(WORDS[:1], "bare")))
    assert taken == [b"%d" % WORDS[0]]
    other = event(WORDS[:1], "bare").replace(b'"bare",', b'"bare","stop_reason":"x",', 1)
    assert not reads.read(chunk(other))
    escaped = event(WORDS[:1], 'an "escape"')
    assert not reads.read(chunk(escaped))
    assert len(taken) == 1
