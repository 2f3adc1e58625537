"""Server-sent events out of a byte stream that is cut anywhere."""

MAX_EVENT_BYTES = 1 << 20


class EventTooLong(ValueError):
    """One event exceeds the bound."""


class SseSplitter:
    """Feed bytes as they come; complete events' `data` come out.

    Follows the WHATWG event-stream grammar: lines end in LF, CRLF or CR, an empty line ends an
    event, several `data` lines are joined by LF, comments and other fields are dropped.
    """

    __slots__ = ("_limit", "tail")

    def __init__(self, limit_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit_bytes
        self.tail = b""  # of an event that is not complete

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `EventTooLong`."""
        if not self.tail and _is_one_event(data):  # the common case
            return [data[6:-2]]
        if self.tail:
            data = self.tail + data
        tail = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # an LF may follow
                data, tail = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks = data.split(b"\n\n")
        self.tail = blocks.pop() + tail
        if len(self.tail) > self._limit:
            raise EventTooLong(f"an event is longer than {self._limit} bytes")
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(block[6:])
            elif (event := _data_of(block)) is not None:
                events.append(event)
        return events

    def close(self) -> list[bytes]:
        """At the end of the body. An event without its empty line is incomplete and dropped,
        but a CR held back may end one."""
        return self.feed(b"\n") if self.tail.endswith(b"\n\r") else []


def _is_one_event(data: bytes) -> bool:
    """`data: ...` on one line, and the empty line."""
    return (
        data.startswith(b"data: ")
        and data.endswith(b"\n\n")
        and data.find(b"\n") == len(data) - 2
        and b"\r" not in data
    )


def _data_of(block: bytes) -> bytes | None:
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines) if lines else None
