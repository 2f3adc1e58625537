"""What a move costs its client and its neighbours: `python benchmarks/moves.py [--short]`.

Two engine processes and a gateway's core; each cell is an engine, a rung and a context length. What
is measured goes to a file, line by line: run it again and it goes on where it stopped.
"""

import argparse
import asyncio
import math
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))  # the gateway's core over processes

from moves_cells import ENGINES, RUNGS, Cell, cells  # noqa: E402
from moves_report import draw, load_rows, table  # noqa: E402
from moves_runs import run_cells  # noqa: E402


def main() -> None:
    given = _parse()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    wanted = [c for c in cells(given.short) if c.engine in given.engine and c.rung in given.rung]
    if not given.report_only:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(
                run_cells(wanted, given.moves, given.results, Path(folder), _tell, calm=given.calm)
            )
    rows = load_rows(given.results)
    print(table(rows))
    if given.plot is not None:
        draw(rows, given.plot)


def _tell(cell: Cell, done: int, moves: int) -> None:
    print(f"{cell.engine} {cell.rung} {cell.context}: {done} of {moves}", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--engine",
        nargs="*",
        choices=ENGINES,
        default=[name for name, engine in ENGINES.items() if engine.by_default],
        help="smollm2 fetches 98 MB and wants two free cores; llama-server is the extra llamacpp",
    )
    parser.add_argument("--rung", nargs="*", choices=RUNGS, default=list(RUNGS))
    parser.add_argument("--moves", type=int, default=50, help="of each cell")
    parser.add_argument("--short", action="store_true", help="the shortest and longest context")
    parser.add_argument(
        "--results", type=Path, default=Path(tempfile.gettempdir()) / "shunter-moves.jsonl"
    )
    parser.add_argument(
        "--calm",
        type=float,
        default=math.inf,
        metavar="LOAD",
        help="moves measured under a load average above it are measured again",
    )
    parser.add_argument("--plot", type=Path, help="SVG of stall against context")
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
