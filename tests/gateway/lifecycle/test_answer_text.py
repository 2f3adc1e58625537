"""Stop strings: found wherever tokens, chunks and engines cut them; held-back text is not lost."""

from hypothesis import given
from hypothesis import strategies as st

from shunter_gateway.lifecycle_text import AnswerText, StopMatcher
from shunter_gateway.testing_world import LOST, World


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The stop string that is complete first wins; of two complete together, the longer one."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            stop = max(hits, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(1, 4), max_size=30),
    st.booleans(),
)
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


class Letters:
    def step(self, token_id: int) -> str:
        return "ab"[token_id % 2]

    def flush(self) -> str:
        return ""


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


def test_stop_string_across_a_failover_ends_the_answer() -> None:
    world = World()
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    stop = plain.text[2:5]
    _, sink = world.submit(stop=(stop,))
    world.call_of().step(3)
    assert sink.text == plain.text[:2]
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().step(5)
    assert sink.outcome is not None
    assert (sink.text, sink.outcome.stop_reason) == (plain.text[:2], stop)
    assert (sink.outcome.finish_reason, sink.outcome.output_tokens) == ("stop", 5)
    assert world.engine.live == [] and world.engine.calls[-1].aborted


def test_held_back_text_comes_at_the_end() -> None:
    world = World()
    undisturbed = World()
    _, plain = undisturbed.submit()
    undisturbed.run_out(10)
    _, sink = world.submit(stop=(plain.text[-2:] + "!",))
    world.run_out(10)
    assert sink.text == plain.text
