"""Stop strings: found wherever tokens and chunks cut them; held-back text is not lost."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shunter_text.answer_text import AnswerText, StopMatcher


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The stop string that is complete first wins; of two complete together, the longer one."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            stop = max(hits, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(
    st.text("ab.\n", max_size=30),
    st.lists(st.text("ab.\n", min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(1, 4), max_size=30),
    st.booleans(),
)
@example("xab", ["ab", "b"], [1], False)
def test_stops_do_not_depend_on_how_text_arrives(
    text: str, stops: list[str], sizes: list[int], include: bool
) -> None:
    matcher = StopMatcher(stops, include)
    out, at = "", 0
    for size in [*sizes, len(text)]:
        out += matcher.push(text[at : at + size])
        at += size
    if matcher.matched is None:
        out += matcher.flush()
    assert (out, matcher.matched) == expected(text, stops, include)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("E") == "EN"
    assert matcher.flush() == "E"


class Letters:
    """Token 0 is `a`, token 1 is `b`; `rest` is left at the end."""

    def __init__(self, rest: str = "") -> None:
        self._rest = rest

    def step(self, token_id: int) -> str:
        return "ab"[token_id % 2]

    def flush(self) -> str:
        return self._rest


@given(st.lists(st.integers(0, 1), max_size=20), st.integers(0, 12))
def test_no_stop_below_min_tokens(ids: list[int], min_tokens: int) -> None:
    text = AnswerText(Letters(), ["ab"], min_tokens=min_tokens)
    used = 0
    for token_id in ids:
        _, count = text.push_ids([token_id])
        used += count
        if text.matched:
            break
    assert text.matched is None or used >= min_tokens
    if text.matched is None:
        assert (1, 0) not in zip(
            ids[max(min_tokens, 1) :], ids[max(min_tokens, 1) - 1 :], strict=False
        )


def test_ids_after_a_stop_string_do_not_count() -> None:
    assert AnswerText(Letters(), ["ab"]).push_ids([1, 0, 1, 1]) == ("b", 3)


@pytest.mark.parametrize(
    ("rest", "end", "matched"), [("", "a", None), ("b", "", "ab"), ("c", "ac", None)]
)
def test_the_rest_may_complete_a_stop_string(rest: str, end: str, matched: str | None) -> None:
    text = AnswerText(Letters(rest), ["ab"])
    assert text.push_id(0) == ""
    assert (text.flush(), text.matched) == (end, matched)


def test_text_of_an_engine_that_sends_no_ids() -> None:
    text = AnswerText(None, ["ab"], include_stop=True)
    assert text.push_ids([0, 1]) == ("", 2)
    assert [text.push_text("xa", 1), text.push_text("by", 1)] == ["x", "ab"]
    assert text.flush() == ""


def test_rest_of_an_answer_below_min_tokens_stops_nothing() -> None:
    text = AnswerText(Letters("b!"), ["ab"], min_tokens=5)
    assert text.push_ids([0]) == ("a", 1)
    assert (text.flush(), text.matched) == ("b!", None)
