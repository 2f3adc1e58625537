"""Pieces of answers as OpenAI JSON: events of a stream, or one body."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shunter_engine.backend import FinishReason, TokenEvent
from shunter_engine.generation import Piece, Usage
from shunter_engine.openai_requests import GenerateCall
from shunter_text.tokenizer import Tokenizer

_json = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all events of one answer repeat."""

    answer_id: str
    created: int
    model: str


class LogprobNames:
    """Names tokens in log probabilities: by text, or as `token_id:17`."""

    def __init__(self, tokenizer: Tokenizer, by_id: bool) -> None:
        self._tokenizer = tokenizer
        self._by_id = by_id

    def __call__(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._by_id else self._tokenizer.token_text(token_id)

    def bytes_of(self, token_id: int) -> list[int]:
        """Also of half a character, which the name cannot show."""
        return list(self._tokenizer.token_bytes(token_id))


class EventEncoder:
    """Server-sent events of one request. What never changes is encoded once."""

    def __init__(self, call: GenerateCall, head: AnswerHead, names: LogprobNames) -> None:
        self._call = call
        self._names = names
        kind = b"chat.completion.chunk" if call.chat else b"text_completion"
        self._head = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % (
            _json(head.answer_id),
            kind,
            head.created,
            _json(head.model),
        )
        self._text_offsets: dict[int, int] = {}

    def opening(self, index: int) -> bytes:
        """A chat answer begins with its role."""
        choice = (
            b'{"index":%d,"delta":{"role":"assistant","content":""},'
            b'"logprobs":null,"finish_reason":null}' % index
        )
        return self._head + choice + b"]}\n\n"

    def piece(self, piece: Piece) -> bytes | None:
        """None: nothing to tell yet, the text is held back."""
        call = self._call
        token_id = piece.event.token_id if piece.event is not None else None
        tells_token = token_id is not None and (
            call.return_token_ids or call.sampling.logprobs is not None
        )
        if not piece.text and piece.finish_reason is None and not tells_token:
            return None
        text = b'"delta":{"content":%b}' if call.chat else b'"text":%b'
        ids = b""
        if call.return_token_ids:
            ids = b',"token_ids":[%d]' % token_id if token_id is not None else b',"token_ids":[]'
        return b'%b{"index":%d,%b%b,"logprobs":%b,"finish_reason":%b%b}]%b}\n\n' % (
            self._head,
            piece.index,
            text % _json(piece.text),
            ids,
            self._logprobs(piece),
            _json(piece.finish_reason) if piece.finish_reason else b"null",
            b',"stop_reason":%b' % _json(piece.stop_reason) if piece.finish_reason else b"",
            self._usage_so_far(piece.event),
        )

    def _usage_so_far(self, event: TokenEvent | None) -> bytes:
        """Of the first token, by which the cached ones are known: an answer that goes on elsewhere
        has no last event here."""
        call = self._call
        if event is None or event.cached_tokens is None:
            return b""
        if not (call.include_usage and call.return_token_ids) or len(call.prompts) * call.n > 1:
            return b""
        usage = Usage(len(call.prompts[0]), 1, event.cached_tokens)
        return b',"usage":%b' % _json(usage_value(usage))

    def usage(self, usage: Usage) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._head, _json(usage_value(usage)))

    def _logprobs(self, piece: Piece) -> bytes:
        event = piece.event
        if self._call.sampling.logprobs is None or event is None or event.token_id is None:
            return b"null"
        if self._call.chat:
            return _json({"content": [chat_logprob(event, self._names)]})
        offset = self._text_offsets.get(piece.index, 0)
        self._text_offsets[piece.index] = offset + len(piece.text)
        return _json(completion_logprobs([event], [offset], self._names))


@dataclass(slots=True)
class Collected:
    """One choice of an answer that is sent at once."""

    texts: list[str] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    length: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | None = None

    def add(self, piece: Piece) -> None:
        if piece.event is not None and piece.event.token_id is not None:
            self.events.append(piece.event)
            self.offsets.append(self.length)
        self.texts.append(piece.text)
        self.length += len(piece.text)
        self.finish_reason = piece.finish_reason
        self.stop_reason = piece.stop_reason


def whole_answer(
    call: GenerateCall,
    head: AnswerHead,
    names: LogprobNames,
    choices: Sequence[Collected],
    usage: Usage,
) -> bytes:
    return _json(
        {
            "id": head.answer_id,
            "object": "chat.completion" if call.chat else "text_completion",
            "created": head.created,
            "model": head.model,
            "choices": [_whole_choice(call, names, *numbered) for numbered in enumerate(choices)],
            "usage": usage_value(usage),
        }
    )


def _whole_choice(
    call: GenerateCall, names: LogprobNames, index: int, choice: Collected
) -> dict[str, Any]:
    text = "".join(choice.texts)
    value: dict[str, Any] = {"index": index}
    if call.chat:
        value["message"] = {"role": "assistant", "content": text}
    else:
        value["text"] = text
    value["logprobs"] = _whole_logprobs(call, names, choice)
    value["finish_reason"] = choice.finish_reason
    value["stop_reason"] = choice.stop_reason
    if call.return_token_ids:
        value["token_ids"] = [event.token_id for event in choice.events]
        value["prompt_token_ids"] = call.prompts[index // call.n]
    return value


def _whole_logprobs(
    call: GenerateCall, names: LogprobNames, choice: Collected
) -> dict[str, Any] | None:
    if call.sampling.logprobs is None:
        return None
    if call.chat:
        return {"content": [chat_logprob(event, names) for event in choice.events]}
    return completion_logprobs(choice.events, choice.offsets, names)


def completion_logprobs(
    events: Sequence[TokenEvent], offsets: Sequence[int], names: LogprobNames
) -> dict[str, Any]:
    return {
        "text_offset": offsets,
        "token_logprobs": [event.logprob for event in events],
        "tokens": [_name(event, names) for event in events],
        "top_logprobs": [
            {names(token_id): logprob for token_id, logprob in event.top_logprobs}
            for event in events
        ],
    }


def chat_logprob(event: TokenEvent, names: LogprobNames) -> dict[str, Any]:
    return {
        **_named(event.token_id, event.logprob, names),
        "top_logprobs": [_named(id_, logprob, names) for id_, logprob in event.top_logprobs],
    }


def _name(event: TokenEvent, names: LogprobNames) -> str:
    return "" if event.token_id is None else names(event.token_id)


def _named(token_id: int | None, logprob: float | None, names: LogprobNames) -> dict[str, Any]:
    if token_id is None:
        return {"token": "", "logprob": logprob, "bytes": []}
    return {"token": names(token_id), "logprob": logprob, "bytes": names.bytes_of(token_id)}


def usage_value(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
