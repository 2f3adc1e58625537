"""The parts of a model's answer to a chat: reasoning, content, tool calls. Pure.

`think`: reasoning stands in `<think>` and `</think>`, at the beginning (DeepSeek-R1, Qwen3, ...);
the prompt's template may have opened it. `hermes`: a call is `{"name": ..., "arguments": {...}}` in
`<tool_call>` and `</tool_call>` (Hermes 2 Pro's function calling format; Qwen2.5, Qwen3, ...).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Tags:
    begin: str
    end: str


THINK = Tags("<think>", "</think>")
HERMES = Tags("<tool_call>", "</tool_call>")
REASONING_FORMATS: Mapping[str, Tags] = {"think": THINK}
TOOL_CALL_FORMATS: Mapping[str, Tags] = {"hermes": HERMES}


@dataclass(frozen=True, slots=True)
class Words:
    kind: Literal["content", "reasoning"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str  # JSON


Part = Words | ToolCall


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


_CALL = msgspec.json.Decoder(_Call)


class AnswerParser:
    """Takes an answer's text as it comes, gives its parts as soon as they are sure. However the
    text is cut, its parts are the same, neighbours of one kind taken together."""

    def __init__(
        self, reasoning: Tags | None, tool_calls: Tags | None, begun_reasoning: bool = False
    ) -> None:
        """`begun_reasoning`: the prompt ends with the tag that begins it."""
        self._reasoning = reasoning
        self._tool_calls = tool_calls
        self._state: Literal["start", "reasoning", "content", "call"] = "start"
        if reasoning is None:
            self._state = "content"
        elif begun_reasoning:
            self._state = "reasoning"
        self._text = ""  # not given yet
        self._trim = False  # white space before what comes next says nothing
        self.calls = 0

    def push(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        """At the answer's end. A call that is not closed may be whole all the same."""
        parts: list[Part] = []
        text, self._text = self._text, ""
        match self._state:
            case "call":
                self._call(text, "", parts)
            case "reasoning":
                self._words("reasoning", text, parts)
            case _:
                self._words("content", text, parts)
        return parts

    # ------------------------------------------------------------ steps; False: more text is needed

    def _step(self, parts: list[Part]) -> bool:
        match self._state:
            case "start":
                return self._begin()
            case "reasoning":
                return self._reason(parts)
            case "content":
                return self._tell(parts)
        return self._end_call(parts)

    def _begin(self) -> bool:
        assert self._reasoning is not None
        text, tag = self._text.lstrip(), self._reasoning.begin
        if not text or (len(text) < len(tag) and tag.startswith(text)):
            return False
        if text.startswith(tag):
            self._text, self._state, self._trim = text[len(tag) :], "reasoning", True
        else:
            self._state = "content"
        return True

    def _reason(self, parts: list[Part]) -> bool:
        assert self._reasoning is not None
        before, tag, after = self._text.partition(self._reasoning.end)
        if not tag:
            self._text = self._give("reasoning", parts, self._reasoning.end)
            return False
        self._words("reasoning", before.rstrip(), parts)
        self._text, self._state, self._trim = after, "content", True
        return True

    def _tell(self, parts: list[Part]) -> bool:
        if self._tool_calls is None:
            self._text = self._give("content", parts, "")
            return False
        before, tag, after = self._text.partition(self._tool_calls.begin)
        if not tag:
            self._text = self._give("content", parts, self._tool_calls.begin)
            return False
        self._words("content", before.rstrip(), parts)
        self._text, self._state = after, "call"
        return True

    def _end_call(self, parts: list[Part]) -> bool:
        assert self._tool_calls is not None
        inside, tag, after = self._text.partition(self._tool_calls.end)
        if not tag:
            return False
        self._text, self._state, self._trim = after, "content", True
        self._call(inside, tag, parts)
        return True

    # ------------------------------------------------------------ parts

    def _give(self, kind: Literal["content", "reasoning"], parts: list[Part], tag: str) -> str:
        """Gives what cannot be the beginning of `tag`, or white space before it; returns the
        rest."""
        text = self._text
        kept = next(
            (n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0
        )
        sure = text[: len(text) - kept].rstrip() if tag else text
        self._words(kind, sure, parts)
        return text[len(sure) :]

    def _words(self, kind: Literal["content", "reasoning"], text: str, parts: list[Part]) -> None:
        if self._trim:
            text = text.lstrip()
        if text:
            self._trim = False
            parts.append(Words(kind, text))

    def _call(self, inside: str, end_tag: str, parts: list[Part]) -> None:
        assert self._tool_calls is not None
        try:
            call = _CALL.decode(inside.strip())
        except msgspec.DecodeError:  # not what it looked like: the client shall see it
            self._trim = False
            self._words("content", f"{self._tool_calls.begin}{inside}{end_tag}", parts)
            return
        self.calls += 1
        parts.append(ToolCall(call.name, bytes(call.arguments).decode()))
