"""Answers to chats whose parts the gateway finds: as events of a stream, and as one message."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shunter_gateway.edge.job import Shape
from shunter_gateway.edge.render import ChoiceRenderer
from shunter_gateway.edge.stream_sinks import ChoiceStream
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import ClientError, Delta, Outcome
from shunter_text.answer_parts import AnswerParser, Part, ToolCall, Words


class PartNames:
    """The fields of OpenAI's messages, and of the deltas that make them up, for one choice.
    `reasoning_content` is DeepSeek's addition, which vLLM and SGLang have, too."""

    def __init__(self, shape: Shape, index: int) -> None:
        self._prefix = f"call_{shape.request_id}_{index}_"
        self._calls = 0

    def delta(self, part: Part) -> dict[str, Any]:
        match part:
            case Words("reasoning", text):
                return {"reasoning_content": text}
            case Words(_, text):
                return {"content": text}
        return {"tool_calls": [{"index": self._calls, **self._call(part)}]}

    def message(self, parts: Sequence[Part]) -> dict[str, Any]:
        """`content` is null where the model does nothing but call tools, or think."""
        content = "".join(p.text for p in parts if isinstance(p, Words) and p.kind == "content")
        thought = "".join(p.text for p in parts if isinstance(p, Words) and p.kind == "reasoning")
        calls = [self._call(part) for part in parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": content or None}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        elif not thought:
            message["content"] = content
        return message

    def _call(self, call: ToolCall) -> dict[str, Any]:
        name = f"{self._prefix}{self._calls}"
        self._calls += 1
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": name, "type": "function", "function": function}


def parsed_outcome(parser: AnswerParser, outcome: Outcome) -> Outcome:
    if parser.calls and outcome.finish_reason == "stop":
        return replace(outcome, finish_reason="tool_calls")
    return outcome


class ParsedSink:
    """The end of one choice of a stream (a `ClientSink`). It holds all that a move must not lose:
    engines know nothing of parts."""

    __slots__ = ("_names", "_opened", "_parser", "_prompt_ids", "_renderer", "_stream", "_watch")

    def __init__(
        self,
        stream: ChoiceStream,
        watch: Watch,
        renderer: ChoiceRenderer,
        names: PartNames,
        parser: AnswerParser,
        prompt_ids: tuple[int, ...],
    ) -> None:
        self._stream = stream
        self._watch = watch
        self._renderer = renderer
        self._names = names
        self._parser = parser
        self._prompt_ids = prompt_ids
        self._opened = False

    def on_assigned(self, instance: str, pool: str) -> None:
        self._watch.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        if not self._opened:
            self._open()
        self._send(self._parser.push(delta.text), delta)

    def on_done(self, outcome: Outcome) -> None:
        if not self._opened:
            self._open()
        self._send(self._parser.flush(), Delta())
        outcome = parsed_outcome(self._parser, outcome)
        self._stream.choice_done(outcome, self._renderer.closing(outcome))

    def on_error(self, error: ClientError) -> None:
        self._stream.fail(error)

    def _send(self, parts: Sequence[Part], delta: Delta) -> None:
        """What the tokens themselves are asked for goes with the first part, or alone."""
        deltas = [self._names.delta(part) for part in parts]
        if not deltas and self._renderer.asks_for_tokens and delta.token_ids:
            deltas = [{}]
        for part in deltas:
            self._stream.send(self._renderer.part(part, delta))
            delta = Delta()

    def _open(self) -> None:
        self._opened = True
        self._watch.on_first_delta()
        self._stream.send(self._renderer.opening(self._prompt_ids))
