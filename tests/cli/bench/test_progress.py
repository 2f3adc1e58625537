import io

from rich.console import Console

from shunter.bench.progress import show_progress
from shunter.bench.records import Tally


async def test_the_bar_shows_how_far_the_run_is() -> None:
    screen = io.StringIO()
    tally = Tally(total=9)
    async with show_progress(tally, Console(file=screen, force_terminal=True, width=80)):
        tally.sent, tally.finished, tally.failed = 7, 5, 1
    assert "5/9 done" in screen.getvalue()
    assert "2 in flight, 1 failed" in screen.getvalue()


async def test_nothing_is_written_where_there_is_no_terminal() -> None:
    screen = io.StringIO()
    async with show_progress(Tally(total=9), Console(file=screen)):
        pass
    assert screen.getvalue() == ""
