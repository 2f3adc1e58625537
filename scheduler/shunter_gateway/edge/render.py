"""OpenAI's answer formats. A streamed delta costs one string escape between prepared bytes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shunter_gateway.edge.errors import body_of
from shunter_gateway.edge.job import Shape
from shunter_gateway.ports import TokenLogprob
from shunter_gateway.request import ClientError, Delta, Outcome, Waiting

DONE_EVENT = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
TokenBytes = Callable[[int], bytes]

json_encode = msgspec.json.Encoder().encode


class ChoiceRenderer:
    """The events of one choice of a stream."""

    __slots__ = ("_closing", "_head", "_logprobs", "_plain", "_shape", "_tail")

    def __init__(self, shape: Shape, index: int, token_bytes: TokenBytes) -> None:
        self._shape = shape
        self._plain = not (shape.logprobs or shape.token_ids)
        self._logprobs = LogprobRenderer(shape, token_bytes)
        head = _event_head(shape) + b'"choices":[{"index":%d,' % index
        usage = b',"usage":null' if shape.include_usage else b""
        self._closing = (head, b"}]" + usage + b"}\n\n")
        field = b'"delta":{"content":' if shape.kind == "chat" else b'"text":'
        self._head = head + field
        end = b"}" if shape.kind == "chat" else b""
        self._tail = end + b',"logprobs":null,"finish_reason":null' + self._closing[1]

    def opening(self, prompt_ids: Sequence[int]) -> bytes:
        """The event before the first delta: the role, and the prompt's ids where asked for."""
        shape = self._shape
        ids = b',"prompt_token_ids":' + json_encode(prompt_ids) if shape.token_ids else b""
        head, tail = self._closing
        if shape.kind == "chat":
            delta = (
                b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
            )
            return head + delta + ids + tail
        if not ids:
            return b""
        return head + b'"text":"","logprobs":null,"finish_reason":null' + ids + tail

    @property
    def around_text(self) -> tuple[bytes, bytes] | None:
        """What stands before and after a delta's text, where nothing but text is asked for: then
        `full` is not needed."""
        return (self._head, self._tail) if self._plain else None

    def full(self, delta: Delta) -> bytes:
        """A delta with all that was asked for; empty where the client could see nothing yet."""
        shape = self._shape
        if not (delta.text or delta.token_ids or delta.logprobs):
            return b""
        end = b"}" if shape.kind == "chat" else b""
        logprobs = self._logprobs.render(delta) if shape.logprobs else None
        ids = b',"token_ids":' + json_encode(list(delta.token_ids)) if shape.token_ids else b""
        middle = json_encode(delta.text) + end + b',"logprobs":' + json_encode(logprobs)
        return self._head + middle + b',"finish_reason":null' + ids + self._closing[1]

    @property
    def asks_for_tokens(self) -> bool:
        return not self._plain

    def part(self, fields: dict[str, Any], delta: Delta) -> bytes:
        """One part of an answer to a chat, with what `delta` says of tokens."""
        head, tail = self._closing
        logprobs = self._logprobs.render(delta) if self._shape.logprobs else None
        end = b',"logprobs":' + json_encode(logprobs) + b',"finish_reason":null'
        if self._shape.token_ids:
            end += b',"token_ids":' + json_encode(list(delta.token_ids))
        return head + b'"delta":' + json_encode(fields) + end + tail

    def closing(self, outcome: Outcome) -> bytes:
        head, tail = self._closing
        body = b'"delta":{}' if self._shape.kind == "chat" else b'"text":""'
        end = b',"logprobs":null,"finish_reason":' + json_encode(outcome.finish_reason)
        if outcome.stop_reason is not None:
            end += b',"stop_reason":' + json_encode(outcome.stop_reason)
        return head + body + end + tail


class LogprobRenderer:
    """Log probabilities in the form of the endpoint; keeps the text offset of completions."""

    __slots__ = ("_offset", "_shape", "_token_bytes")

    def __init__(self, shape: Shape, token_bytes: TokenBytes) -> None:
        self._shape = shape
        self._token_bytes = token_bytes
        self._offset = 0

    def render(self, delta: Delta) -> dict[str, Any] | None:
        if not delta.logprobs:
            return None
        if self._shape.kind == "chat":
            return {"content": [self._chat_entry(item) for item in delta.logprobs]}
        return self._completion(delta.logprobs)

    def _chat_entry(self, item: TokenLogprob) -> dict[str, Any]:
        entry = self._token(item.token_id, item.logprob)
        entry["top_logprobs"] = [self._token(token, value) for token, value in item.top]
        return entry

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._token_bytes(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    def _completion(self, items: Sequence[TokenLogprob]) -> dict[str, Any]:
        tokens = [self._text(item.token_id) for item in items]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [{self._text(t): v for t, v in item.top} for item in items],
            "text_offset": offsets,
        }

    def _text(self, token_id: int) -> str:
        return self._token_bytes(token_id).decode("utf-8", "replace")


def raw_event(raw: bytes) -> bytes:
    """A text-level engine's own event, framed."""
    return b"data: " + raw + b"\n\n"


def usage_event(shape: Shape, outcomes: Sequence[Outcome]) -> bytes:
    """The last event before the end mark where `stream_options.include_usage` is set."""
    totals = json_encode(usage(shape, outcomes))
    return _event_head(shape) + b'"choices":[],"usage":' + totals + b"}\n\n"


def waiting_comment(waiting: Waiting) -> bytes:
    """A comment: clients' parsers pass over it, people and proxies see that something is alive."""
    words = [f": shunter phase={waiting.phase}"]
    if waiting.position is not None:
        words.append(f"position={waiting.position}")
    if waiting.eta_s is not None:
        words.append(f"eta_s={math.ceil(waiting.eta_s)}")
    return " ".join(words).encode() + b"\n\n"


def error_event(error: ClientError) -> bytes:
    return b"data: " + b" ".join(body_of(error).split(b"\n")) + b"\n\n"


def usage(shape: Shape, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The choices of one prompt share it: it counts once."""
    first = outcomes[:: max(1, shape.choices_per_prompt)]
    prompt = sum(outcome.prompt_tokens for outcome in first)
    output = sum(outcome.output_tokens for outcome in outcomes)
    cached = [o.cached_tokens for o in first if o.cached_tokens is not None]
    totals: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    if len(cached) == len(first):
        totals["prompt_tokens_details"] = {"cached_tokens": sum(cached)}
    return totals


def response_id(shape: Shape) -> str:
    return ("chatcmpl-" if shape.kind == "chat" else "cmpl-") + shape.request_id


def _event_head(shape: Shape) -> bytes:
    kind = b"chat.completion.chunk" if shape.kind == "chat" else b"text_completion"
    return b'data: {"id":%b,"object":"%b","created":%d,"model":%b,' % (
        json_encode(response_id(shape)),
        kind,
        shape.created,
        json_encode(shape.model),
    )
