import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from shunter_engine.stop_strings import StopStrings

TEXTS = st.text("ab.\n", max_size=30)
STOPS = st.lists(st.text("ab.\n", min_size=1, max_size=4), max_size=3)


def naive(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Character by character: the answer ends where the first stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(TEXTS, STOPS, st.lists(st.integers(0, 30)), st.booleans())
@example("xab", ["ab", "b"], [1], False)
def test_equals_a_naive_search_however_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    finder = StopStrings(stops, include)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    given_out = ""
    for start, end in itertools.pairwise(bounds):
        given_out += finder.push(text[start:end])
        if finder.matched is not None:
            break
    if finder.matched is None:
        given_out += finder.flush()
    expected, matched = naive(text, stops, include)
    assert given_out == expected
    assert finder.matched == matched


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    finder = StopStrings(["END"])
    assert finder.push("the E") == "the "
    assert finder.push("N") == ""
    assert finder.push("E") == "EN"
    assert finder.flush() == "E"
