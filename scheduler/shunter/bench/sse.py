"""Reads a stream of OpenAI events with little work per token."""

import msgspec

_MAX_LINE_BYTES = 4 << 20


class StreamError(Exception):
    """The stream carries an error or is not one. `kind` groups such errors in the report."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[object] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    token_ids: list[int] | None = None

    def has_token(self) -> bool:
        if self.text or self.token_ids:
            return True
        delta = self.delta
        return delta is not None and bool(
            delta.content or delta.reasoning_content or delta.tool_calls
        )


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: object = None


class EventReader:
    """Feed it bytes as they come; it says how many events with tokens they completed."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.done = False
        self._rest = b""
        self._decoder = msgspec.json.Decoder(_Event)

    def feed(self, data: bytes) -> int:
        """Raises `StreamError` for an error event and for what is no event."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise StreamError("protocol", f"a line of more than {_MAX_LINE_BYTES} bytes")
        return sum(self._line(line) for line in lines if line.startswith(b"data:"))

    def _line(self, line: bytes) -> bool:
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self.done = True
            return False
        try:
            event = self._decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise StreamError("protocol", f"not an OpenAI event: {error}") from error
        if event.error is not None:
            raise StreamError("error event", error_text(event.error))
        if event.usage is not None:
            self.usage = event.usage
        return any(choice.has_token() for choice in event.choices)


def error_text(error: object) -> str:
    """The message of an OpenAI error object, whatever its exact shape."""
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or error)[:300]


def error_message(body: bytes) -> str:
    """Of an error's whole body: an OpenAI error's message, else the body's beginning."""
    try:
        return error_text(msgspec.json.decode(body)["error"])
    except (msgspec.MsgspecError, TypeError, KeyError):
        return body[:300].decode(errors="replace")
