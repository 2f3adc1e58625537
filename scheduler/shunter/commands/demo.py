"""`shunter demo`: what Shunter is for, shown on a running system."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shunter.scheduler_client import CALL_TIMEOUT_S, StateDirOption, scheduler_stub
from shunter.state import DEFAULT_STATE_DIR, State, read_state

if TYPE_CHECKING:
    from subprocess import Popen

    from rich.console import Console

    from shunter.failover import Report, Target

demo = typer.Typer(name="demo", no_args_is_help=True, help="Show what moves do for clients.")

DEMO_MODEL = "default"
START_TIMEOUT_S = 200.0
STOP_TIMEOUT_S = 30.0


@demo.callback()
def _demo() -> None:
    """Show what moves do for clients.

    Example: `shunter demo failover`
    """


@demo.command()
def failover(
    model: Annotated[str, typer.Option(help="What to ask for.")] = DEMO_MODEL,
    streams: Annotated[int, typer.Option(min=2, max=1000)] = 20,
    tokens: Annotated[int, typer.Option(min=20, help="Length of each answer.")] = 200,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer.")] = 300.0,
    api_key: Annotated[str, typer.Option(envvar="SHUNTER_API_KEY", show_default=False)] = "",
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Kill an engine in mid-answer and compare every text with an undisturbed run.

    It uses the `shunter up` of --state-dir, or starts one of its own. Exit 1 where a stream is
    not complete or a text differs.

    Example: `shunter demo failover --streams 20 --tokens 200`
    """
    from shunter.failover import Target
    from shunter.terminal import out
    from shunter.up.launch import reachable

    console = out()
    with _system(state_dir, console) as (directory, state):
        target = Target(f"http://{reachable(state.http)}", model, tokens, timeout, api_key)
        report = _run(console, target, streams, state, directory)
    _show(console, report)
    if not report.passed:
        raise typer.Exit(1)


def _run(
    console: "Console", target: "Target", count: int, state: State, directory: Path
) -> "Report":
    import asyncio

    from shunter.failover import disturbed, kill_engine, undisturbed
    from shunter_proto.v1.scheduler_pb2 import StatusRequest

    def running() -> dict[str, int]:
        with scheduler_stub(state.scheduler) as stub:
            reply = stub.Status(StatusRequest(), timeout=CALL_TIMEOUT_S)
        return {instance.name: instance.running for instance in reply.instances}

    def kill(name: str) -> None:
        kill_engine(directory, name)
        console.print(f"killed {name} (SIGKILL)")

    async def both() -> "Report":
        with _bar(console, "undisturbed", count * target.max_tokens) as tell:
            expected = await undisturbed(target, count, tell)
        with _bar(console, "one engine killed", count * target.max_tokens) as tell:
            return await disturbed(target, expected, running, kill, tell)

    return asyncio.run(both())


@contextmanager
def _bar(console: "Console", what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda chunks: progress.advance(task, chunks)


def _show(console: "Console", report: "Report") -> None:
    count = len(report.streams)
    console.print(f"{report.victim} had {report.on_victim} of {count} streams when it was killed")
    console.print(f"complete         {report.complete}/{count}")
    console.print(f"identical texts  {report.identical}/{count}")
    console.print(f"longest pause    {report.longest_pause_s * 1000:.0f} ms")
    for stream in report.streams:
        if not stream.complete:
            console.print(f"failed: {stream.error or stream.finish_reason or 'no end'}")


@contextmanager
def _system(state_dir: Path, console: "Console") -> Iterator[tuple[Path, State]]:
    """The running system of that state directory, or one of our own."""
    import tempfile

    state = read_state(state_dir)
    if state and state.ready:
        yield state_dir, state
        return
    with tempfile.TemporaryDirectory(prefix="shunter-demo-") as folder:
        directory = Path(folder)
        console.print(f"no `shunter up` runs in {state_dir}; starting one of our own")
        with _own_up(directory) as ready:
            yield directory, ready


@contextmanager
def _own_up(directory: Path) -> Iterator[State]:
    import os
    import subprocess
    import sys

    from shunter.up import bound

    up = (sys.executable, "-m", "shunter", "up", "--state-dir", str(directory))
    ports = ("--port", "0", "--grpc-port", "0", "--scheduler-port", "0")
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", bound.__file__, str(os.getpid()), *up, *ports],
            stdout=log,
            stderr=log,
        )
    try:
        yield _wait_ready(directory, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(directory: Path, process: "Popen[bytes]") -> State:
    import time

    from shunter.failure import Failure

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        state = read_state(directory)
        if state and state.ready:
            return state
        time.sleep(0.1)
    said = (directory / "up.log").read_text(errors="replace").strip()
    raise Failure(f"the system did not start: {said[-2000:]}", "try `shunter up`")
