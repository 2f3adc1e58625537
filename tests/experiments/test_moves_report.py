"""What `benchmarks/moves.py` makes of its rows."""

from pathlib import Path

import msgspec
from moves_cells import CONTEXTS, ENGINES, cells
from moves_report import load_rows, table
from moves_runs import Row


def row(number: int, longest_s: float, moved: bool = True, context: int = 128) -> Row:
    return Row(
        engine="numpy",
        rung="kv",
        context=context,
        number=number,
        moved=moved,
        reason="" if moved else "finished",
        step_s=0.010,
        longest_s=longest_s,
        kv_bytes=3 << 20,
        equal=number != 1,
        neighbours_before=(10, 0.1),
        neighbours_during=(10, 0.12),
        load=number,
    )


def test_stalls_are_of_moves_that_were_carried_out() -> None:
    rows = [row(0, 0.020), row(1, 0.030), row(2, 0.040), row(3, 9.0, moved=False)]
    assert table(rows).splitlines()[-1] == (
        "| numpy | kv | 128 | 3 of 4 | 10.0 | 20.0 | 28.0 | 2.00 | 3.0 | +20.0% | 67% | 2.0 |"
    )


def test_a_switch_at_once_says_nothing_of_others_steps() -> None:
    at_once = row(0, 0.020)
    at_once.neighbours_during = (0, 0.0)
    assert table([at_once]).splitlines()[-1].endswith("| 3.0 |  | 100% |  |")


def test_a_move_that_was_measured_again_counts_once(tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    rows = [row(1, 0.5), row(2, 0.3), row(1, 0.02)]
    results.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
    assert sorted(r.longest_s for r in load_rows(results)) == [0.02, 0.3]


def test_rows_are_read_in_the_order_of_the_cells(tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    found = [row(0, 0.02, context=4096), row(0, 0.02, moved=False, context=512)]
    results.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in found))
    assert load_rows(results) == found[::-1]
    assert table(load_rows(results)).splitlines()[2].startswith("| numpy | kv | 512 | 0 of 1 | |")


def test_each_engine_meets_each_rung_at_each_context() -> None:
    every = list(cells(short=False))
    assert {(c.engine, c.rung) for c in every} == {
        (e, r) for e in ENGINES for r in ENGINES[e].rungs
    }
    assert len(every) == len(set(every))
    longest = {name: max(c.context for c in every if c.engine == name) for name in ENGINES}
    assert longest == {name: engine.longest for name, engine in ENGINES.items()}
    assert longest["numpy"] == 4096 and longest["simulated-7b"] == 8000
    assert {c.context for c in cells(short=True) if c.engine == "numpy"} == {CONTEXTS[0], 4096}
