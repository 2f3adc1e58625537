import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.columns import FIELDS, RequestColumns


@given(st.lists(st.integers(0, 5)))
def test_what_is_due_at_one_instant_happens_in_the_order_of_its_entry(times: list[int]) -> None:
    agenda = Agenda()
    happened: list[tuple[float, int]] = []
    for number, when in enumerate(times):
        agenda.at(when, lambda n: happened.append((agenda.now, n)), number)
    agenda.run(lambda: False)
    assert happened == sorted((float(when), number) for number, when in enumerate(times))


def test_the_end_of_an_instant_comes_after_all_of_it_and_may_add_to_it() -> None:
    agenda = Agenda()
    said: list[str] = []

    def first() -> None:
        agenda.at_end(last)
        agenda.after(0.0, said.append, "second")
        said.append("first")

    def last() -> None:
        said.append("end")
        agenda.at(0.5, said.append, "past means now")

    agenda.at(1.0, first)
    agenda.at(1.0, said.append, "beside")
    agenda.at(2.0, said.append, "later")
    agenda.run(lambda: agenda.now >= 1.5)
    assert said == ["first", "beside", "second", "end", "past means now", "later"]


def test_a_run_ends_when_it_is_over() -> None:
    agenda = Agenda()
    said: list[float] = []
    for when in (1.0, 2.0, 3.0):
        agenda.at(when, said.append, when)
    agenda.run(lambda: agenda.now >= 2.0)
    assert said == [1.0, 2.0]


def test_columns_grow_and_keep_what_was_written() -> None:
    columns = RequestColumns()
    for number in range(5000):
        row = columns.new_row()
        if number % 2:
            columns.put(row, (("arrival_s", number), ("moves", number)))
    done = columns.done()
    assert set(done) == set(FIELDS)
    assert {len(column) for column in done.values()} == {5000}
    assert done["moves"][1::2].tolist() == list(range(1, 5000, 2))
    assert not done["moves"][::2].any()
    assert np.isnan(done["arrival_s"][::2]).all()
    assert not done["moves"].flags.writeable
