"""The journal: one owner at a time, and tokens of that owner only."""

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
