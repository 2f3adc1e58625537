"""The plain case of a stream, read without a parser: one HTTP chunk, one event, one token id.

Most reads of a stream differ from the one before in a token id and its text alone. `learn` finds
where these stand in one event; `PlainReads` then compares bytes. What does not match takes the
general path, which gives the same: a match is a chunk that HTTP parser, event splitter and JSON
decoder would read as this one id.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from shunter_gateway.engines.sse import SseSplitter
from shunter_gateway.ports import TokenChunk

_TEXT = b'"text":"'
_IDS = b'"token_ids":['
_NOT_BARE = re.compile(rb'["\\\x00-\x1f]').search  # ends a JSON string, or is escaped in it
_KNOWN_SIZES = 256


@dataclass(frozen=True, slots=True)
class PlainShape:
    """An event is `head`, text without escapes, `middle`, digits, `tail`."""

    head: bytes
    middle: bytes
    tail: bytes

    def event(self, text: bytes, token_id: int) -> bytes:
        return b"%b%b%b%d%b" % (self.head, text, self.middle, token_id, self.tail)


def learn(event: bytes, decode: Callable[[bytes], TokenChunk]) -> PlainShape | None:
    """The shape of an event that brings one token id and nothing else; None of any other."""
    text_at, ids_at = event.find(_TEXT) + len(_TEXT), event.find(_IDS) + len(_IDS)
    text_end, ids_end = event.find(b'"', text_at), event.find(b"]", ids_at)
    if not len(_TEXT) <= text_at <= text_end < ids_at <= ids_end or b"\n" in event:
        return None
    shape = PlainShape(event[:text_at], event[text_end:ids_at], event[ids_end:])
    if _NOT_BARE(event[text_at:text_end]) or not event[ids_at:ids_end].isdigit():
        return None
    # Only where another id in this place is read as that id do the places mean what they seem to.
    for probe in (1, 20):
        if decode(shape.event(b"a", probe)) != TokenChunk([probe]):
            return None
    return shape


class PlainReads:
    """Takes reads of a connection that are plain.

    `take` gets the id's digits as they stand in the event; it may decline, having done nothing.
    """

    __slots__ = ("_end", "_head", "_middle", "_prefixes", "_splitter", "_tail", "_take")

    def __init__(
        self, shape: PlainShape, splitter: SseSplitter, take: Callable[[bytes], bool]
    ) -> None:
        self._splitter = splitter
        self._take = take
        self._head = b"data: " + shape.head
        self._middle = shape.middle
        self._tail = shape.tail + b"\n\n\r\n"
        self._end = -len(self._tail)
        self._prefixes: dict[int, bytes] = {}  # chunk size and head, by length of the read

    def read(self, data: bytes) -> bool:
        """True: taken whole. `data` begins where a chunk of the body may begin."""
        prefix = self._prefixes.get(len(data)) or self._prefix(len(data))
        if self._splitter.tail or not (data.startswith(prefix) and data.endswith(self._tail)):
            return False
        text, middle, digits = data[len(prefix) : self._end].partition(self._middle)
        if not middle or (text and _NOT_BARE(text)):
            return False
        return self._take(digits)

    def _prefix(self, length: int) -> bytes:
        """What begins a read that is one chunk of this shape."""
        if len(self._prefixes) >= _KNOWN_SIZES:
            self._prefixes.clear()
        framing = len(b"\r\n\r\n")
        for digits in range(1, 9):  # of the chunk's size, which does not count them
            size = b"%x" % max(length - framing - digits, 0)
            if len(size) == digits:
                break
        self._prefixes[length] = prefix = size + b"\r\n" + self._head
        return prefix


def is_whole_chunk(data: bytes, body: list[bytes]) -> bool:
    """A read of one chunk, and of nothing before or after it; `body` is what the parser made of it.
    Bodies that begin with an event only: those cannot be taken for a chunk's size."""
    if len(body) != 1 or not body[0].startswith(b"data: "):
        return False
    return data == b"%x\r\n%b\r\n" % (len(body[0]), body[0])
