"""Reasoning and tool calls in an answer's text, however it is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_text.answer_parts import HERMES, THINK, AnswerParser, Part, ToolCall, Words

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
WEATHER = ToolCall("weather", '{"city": "Köln"}')


def content(text: str) -> Words:
    return Words("content", text)


def reasoning(text: str) -> Words:
    return Words("reasoning", text)


def parsed(*pieces: str, begun: bool = False) -> list[Part]:
    """With neighbours of one kind taken together."""
    parser = AnswerParser(THINK, HERMES, begun)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.flush()
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Words) and isinstance(last, Words) and part.kind == last.kind:
            joined[-1] = Words(part.kind, last.text + part.text)
        else:
            joined.append(part)
    assert parser.calls == sum(isinstance(part, ToolCall) for part in parts)
    return joined


EXAMPLES: list[tuple[str, list[Part]]] = [
    ("", []),
    ("plain text ", [content("plain text ")]),
    ("<think>\nwhy\n\n</think>\n\nso", [reasoning("why"), content("so")]),
    ("\n<think></think>\n\nso", [content("so")]),
    ("<think>never ends ", [reasoning("never ends ")]),
    ("first <think>no</think>", [content("first <think>no</think>")]),
    (CALL, [WEATHER]),
    (f"<think>a</think>\nLet me look.\n{CALL}\n{CALL}\n",
     [reasoning("a"), content("Let me look."), WEATHER, WEATHER]),
    (CALL.removesuffix("</tool_call>"), [WEATHER]),
    ('<tool_call>{"name": "now"}</tool_call>', [ToolCall("now", "{}")]),
    ("<tool_call>{broken}</tool_call> end", [content("<tool_call>{broken}</tool_call> end")]),
    ("a <tool_ b", [content("a <tool_ b")]),
    ("a <tool_", [content("a <tool_")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), EXAMPLES)
def test_parts_of_an_answer(text: str, parts: list[Part]) -> None:
    assert parsed(text) == parts


def test_the_prompt_may_have_begun_the_reasoning() -> None:
    assert parsed("why\n</think>\n\nso", begun=True) == [reasoning("why"), content("so")]


_PIECES = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "f"}',
    "<",
    ">",
    "x y",
    "\n",
    " ",
    "é",
)


@given(st.lists(st.sampled_from(_PIECES), max_size=14), st.data(), st.booleans())
def test_it_does_not_matter_how_the_text_is_cut(
    pieces: list[str], data: st.DataObject, begun: bool
) -> None:
    text = "".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20))
    cut = [text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)])]
    assert parsed(*cut, begun=begun) == parsed(text, begun=begun)
    assert parsed(*text, begun=begun) == parsed(text, begun=begun)


def test_what_is_sure_is_given_at_once() -> None:
    parser = AnswerParser(THINK, HERMES)
    assert parser.push("<think>one two") == [reasoning("one two")]
    assert parser.push(" three </thi") == [reasoning(" three")]
    assert parser.push("nk>a<") == [content("a")]
    assert parser.push("b") == [content("<b")]


def test_without_formats_everything_is_content() -> None:
    parser = AnswerParser(None, None)
    assert parser.push("<think> ") == [content("<think> ")] and parser.flush() == []
