"""OpenAI calls passed on as they are, for requests that are not held as tokens."""

import msgspec

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.streaming import EngineRefused, StreamCall, finish_reason
from shunter_gateway.ports import EngineCall, EngineFailure, EngineRequest, TokenChunk, TokenSink

WHOLE_ANSWER_S = 600.0  # longest wait for an answer that does not stream


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        details = self.prompt_tokens_details
        return details.cached_tokens if details is not None else None


class EngineError(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None  # completions
    delta: _Message | None = None  # chat, streamed
    message: _Message | None = None  # chat, whole
    finish_reason: str | None = None

    @property
    def words(self) -> str:
        message = self.delta or self.message
        return (message.content if message is not None else self.text) or ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: EngineError | str | None = None


_EVENT = msgspec.json.Decoder(_Event)


def refused(error: EngineError | str, data: bytes) -> EngineRefused:
    """An error event in mid-stream: a 4xx in it is the client's, anything else the engine's."""
    code = error.code if isinstance(error, EngineError) else None
    if isinstance(code, int) and 400 <= code < 500 and code not in (408, 429):
        return EngineRefused(
            EngineFailure("client", f"the engine answered {code}", False, code, data)
        )
    return EngineRefused(EngineFailure("engine_5xx", "the engine reported an error", True))


class TextDecoder:
    """Looks for the end and the counts; the events themselves go on untouched."""

    def __init__(self) -> None:
        self._events = 0

    def event(self, data: bytes) -> TokenChunk | None:
        event = _EVENT.decode(data)
        if event.error is not None:
            raise refused(event.error, data)
        self._events += bool(event.choices)
        return self._chunk(event, data, self._events)

    def body(self, data: bytes) -> TokenChunk | None:
        event = _EVENT.decode(data)
        if event.error is not None:
            raise refused(event.error, data)
        return self._chunk(event, data, 0)

    def _chunk(self, event: _Event, data: bytes, output_tokens: int) -> TokenChunk:
        reason = next((c.finish_reason for c in event.choices if c.finish_reason), None)
        words = "".join(choice.words for choice in event.choices if choice.index == 0)
        chunk = TokenChunk(raw=data, text=words, output_tokens=output_tokens)
        if reason is not None:
            chunk.finish_reason = finish_reason(reason)
        if (usage := event.usage) is not None:
            chunk.prompt_tokens = usage.prompt_tokens
            chunk.output_tokens = usage.completion_tokens
            chunk.cached_tokens = usage.cached_tokens
        return chunk


def start_text_call(client: HttpClient, request: EngineRequest, sink: TokenSink) -> EngineCall:
    call = StreamCall(TextDecoder(), sink)
    fields = msgspec.json.decode(request.body, type=dict[str, msgspec.Raw])
    # The client may have used an alias that the engine does not know.
    fields["model"] = msgspec.Raw(msgspec.json.encode(request.model))
    streamed = bytes(fields.get("stream", b"")) == b"true"
    body = msgspec.json.encode(fields)
    first_byte_s = 0.0 if streamed else WHOLE_ANSWER_S
    call.start(client, request, request.path, body, first_byte_s)
    return call
