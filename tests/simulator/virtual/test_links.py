"""Copies that share a link."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.links import Links, Transfer

Sent = tuple[float, str, str, float]
"""When, from where, to where, how many bytes; at 100 bytes a second."""


def arrivals_of(
    sent: Sequence[Sent], stopped: Sequence[tuple[float, int]] = ()
) -> dict[int, float]:
    """When each has arrived, by its number; some are stopped."""
    agenda = Agenda()
    links = Links(agenda, 100.0)
    arrived: dict[int, float] = {}
    on_the_way: dict[int, Transfer] = {}

    def send(number: int) -> None:
        _, source, target, size = sent[number]

        def done() -> None:
            arrived[number] = agenda.now

        on_the_way[number] = links.send(source, target, size, done)

    for number, (at_s, *_) in enumerate(sent):
        agenda.at(at_s, send, number)
    for at_s, number in stopped:
        agenda.at(at_s, lambda n: links.stop(on_the_way[n]), number)
    agenda.run(lambda: False)
    return arrived


def test_a_lone_copy_has_the_whole_link() -> None:
    assert arrivals_of([(1.0, "a", "b", 200.0)]) == {0: 3.0}
    assert arrivals_of([(1.0, "a", "b", 0.0)]) == {0: 1.0}


@pytest.mark.parametrize("other", [("a", "c"), ("c", "b"), ("a", "b")])
def test_copies_on_one_link_share_it(other: tuple[str, str]) -> None:
    # Alone for a second, at half speed for two, and what is left alone again.
    found = arrivals_of([(0.0, "a", "b", 300.0), (1.0, *other, 100.0)])
    assert found == {1: pytest.approx(3.0), 0: pytest.approx(4.0)}


@pytest.mark.parametrize("other", [("b", "a"), ("b", "c"), ("c", "a"), ("c", "d")])
def test_what_goes_the_other_way_or_elsewhere_does_not_slow_it(other: tuple[str, str]) -> None:
    found = arrivals_of([(0.0, "a", "b", 300.0), (1.0, *other, 100.0)])
    assert found == {1: pytest.approx(2.0), 0: pytest.approx(3.0)}


def test_the_more_crowded_link_decides() -> None:
    crowd = [(0.0, "a", target, 100.0) for target in "bcd"]
    found = arrivals_of([*crowd, (0.0, "e", "b", 100.0)])
    assert found[0] == found[1] == found[2] == pytest.approx(3.0)
    assert found[3] == pytest.approx(2.0)


def test_a_stopped_copy_never_arrives_and_leaves_its_share() -> None:
    both = [(0.0, "a", "b", 300.0), (1.0, "a", "c", 500.0)]
    # The second goes on for two seconds, in which the first gets 100 of its 200 bytes.
    found = arrivals_of(both, stopped=[(3.0, 1), (3.5, 1)])
    assert found == {0: pytest.approx(4.0)}
    assert arrivals_of(both, stopped=[(9.0, 0)]).keys() == {0, 1}  # it had arrived


names = st.sampled_from("abc")
sizes = st.floats(min_value=0.0, max_value=1000.0)
starts = st.floats(min_value=0.0, max_value=10.0)


@given(st.lists(st.tuples(starts, names, names, sizes), max_size=8))
def test_all_arrive_no_sooner_than_alone_and_no_later_than_one_by_one(sent: list[Sent]) -> None:
    found = arrivals_of(sent)
    assert found.keys() == set(range(len(sent)))
    for number, (at_s, _, _, size) in enumerate(sent):
        assert found[number] >= at_s + size / 100 - 1e-6
    latest_s = max((one[0] for one in sent), default=0.0)
    in_turn_s = latest_s + sum(one[3] for one in sent) / 100
    assert all(at_s <= in_turn_s + 1e-6 for at_s in found.values())
