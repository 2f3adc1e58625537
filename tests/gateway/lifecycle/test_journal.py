"""The journal: one owner at a time, and tokens of that owner only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_gateway.journal import Owner, TokenJournal

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 6), st.integers(1, 7)),
        st.tuples(st.just("vacate"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("append"), st.integers(1, 6), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_only_the_owner_appends_and_epochs_only_grow(
    operations: list[tuple[str, int, int]],
) -> None:
    journal = TokenJournal([1, 2, 3])
    kept: list[int] = []
    owners: set[int] = set()
    for number, (what, epoch, amount) in enumerate(operations):
        before, owner = journal.epoch, journal.owner
        if what == "take":
            if journal.take(epoch, Owner("i", amount)):
                assert epoch == before and amount not in owners
                owners.add(amount)
            else:
                assert journal.owner == owner
        elif what == "vacate":
            assert journal.vacate(epoch) == (epoch == before)
        elif journal.append(epoch, [number] * amount):
            assert owner is not None and owner.epoch == epoch
            kept += [number] * amount
        assert journal.epoch >= before
    assert journal.token_ids() == (1, 2, 3, *kept)
    assert journal.output_tokens == len(kept)


def test_gap_keeps_the_known_part_and_what_lies_beyond_as_text() -> None:
    journal = TokenJournal([1])
    journal.take(1, Owner("a", 1))
    assert journal.append(1, [10, 11])
    assert journal.note_gap(1, 5, "é")
    assert not journal.append(1, [12])
    assert journal.note_gap(1, 6, "x")
    assert (journal.output_tokens, journal.token_ids()) == (6, (1, 10, 11))
    assert journal.rewind_to_known() == "éx"
    assert (journal.output_tokens, journal.has_gap) == (2, False)


def with_gap() -> TokenJournal:
    """Prompt 1 2 3, known 4 5, two ids not told, then 8 9."""
    journal = TokenJournal([1, 2, 3])
    assert journal.take(1, Owner("a", 1))
    assert journal.append(1, [4, 5])
    assert journal.note_gap(1, 5, "é", [8])
    assert journal.note_gap(1, 6, "x", [9])
    return journal


@pytest.mark.parametrize(
    "held",
    [(1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)],
    ids=["without the last", "without the very last", "with more than was read"],
)
def test_what_an_engine_holds_closes_the_gap(held: tuple[int, ...]) -> None:
    journal = with_gap()
    assert journal.adopt(held)
    assert journal.token_ids() == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert (journal.has_gap, journal.unjournaled_text, journal.output_tokens) == (False, "", 6)
    assert journal.append(1, [10])


@pytest.mark.parametrize(
    "held",
    [(), (1, 2), (1, 2, 9, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 7, 9)],
    ids=["nothing", "too short", "another prompt", "too few", "another end"],
)
def test_what_does_not_fit_changes_nothing(held: tuple[int, ...]) -> None:
    journal = with_gap()
    assert not journal.adopt(held)
    assert journal.token_ids() == (1, 2, 3, 4, 5)
    assert (journal.has_gap, journal.unjournaled_text, journal.output_tokens) == (True, "éx", 6)


def test_without_a_gap_only_the_beginning_counts() -> None:
    journal = TokenJournal([1, 2, 3])
    assert journal.take(1, Owner("a", 1)) and journal.append(1, [4, 5])
    assert journal.adopt((1, 2, 3, 4)) and journal.adopt((1, 2, 3, 4, 5, 6))
    assert not journal.adopt((1, 2, 3, 6))
    assert journal.token_ids() == (1, 2, 3, 4, 5)


def test_a_second_gap_forgets_the_ids_before_it() -> None:
    journal = with_gap()
    assert journal.note_gap(1, 8, "ö", [12])
    assert not journal.adopt((1, 2, 3, 4, 5, 6, 7, 8, 9))
    assert journal.adopt((1, 2, 3, 4, 5, 6, 7, 8, 9, 11))
    assert journal.token_ids()[-2:] == (11, 12)
