"""What the operator takes with many pools: the first reconcile, each change, and rest.

    python benchmarks/reconcile.py [--pools 200] [--pods 5] [--changes 40] [--rest 120]

Needs a cluster ($KUBECONFIG) whose nodes with the label `node-type: fake` make pods Running and
Ready without running them. Operator and scheduler are the real processes on this machine, with
the real API server; what each of them asks of it is counted on the way. Nothing listens at the
pods' addresses. CPU is utime + stime of the process.

    first    from the operator's start, with all pools there, to the last Deployment, and to the
             last pool whose status says that every instance is ready (that is the cluster's work)
    change   a pool's replicas are edited: until its Deployment says so, and until its status is
             of this generation; one pool after the other
    rest     nothing changes: calls by kind, CPU, memory
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from api_counter import Counted, counted
from reconcile_world import Size, World, make_world, ready

from shunter_runtime.kube_access import find_access

FIRST_S, START_S = 1800.0, 60.0


@dataclass
class Process:
    """`shunter NAME ...`, started again when it ends, as a Deployment does: a leader that has lost
    its Lease ends. `calls` is what it asked of the API server."""

    name: str
    command: tuple[str, ...]
    counter: Counted
    log: Path
    starts: int = 0
    ended_cpu_s: float = 0.0  # of those that have ended
    running: psutil.Popen | None = None

    def cpu_s(self) -> float:
        assert self.running is not None
        times = self.running.cpu_times()
        return self.ended_cpu_s + float(times.user + times.system)

    def memory_mib(self) -> float:
        assert self.running is not None
        return float(self.running.memory_info().rss) / (1 << 20)

    async def keep_running(self) -> None:
        """Until cancelled."""
        environment = {**os.environ, "KUBECONFIG": str(self.counter.kubeconfig)}
        with self.log.open("ab") as log:
            while True:
                self.starts += 1
                self.running = psutil.Popen(self.command, env=environment, stdout=log, stderr=log)
                spent_s = 0.0
                try:
                    while self.running.poll() is None:
                        spent_s = sum(self.running.cpu_times()[:2])
                        await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    self.running.terminate()
                    try:
                        await asyncio.to_thread(self.running.wait, START_S)
                    except psutil.TimeoutExpired:
                        self.running.kill()
                    raise
                self.ended_cpu_s += spent_s


@dataclass
class Rest:
    """Per minute."""

    calls: dict[str, float]
    cpu_s: float
    memory_mib: float


@dataclass
class Report:
    size: Size
    first_deployments_s: float = 0.0
    first_ready_s: float = 0.0
    first_calls: dict[str, int] = field(default_factory=dict)
    first_cpu_s: float = 0.0
    operator_starts: int = 0
    change_deployment_ms: list[float] = field(default_factory=list)
    change_status_ms: list[float] = field(default_factory=list)
    change_calls: dict[str, float] = field(default_factory=dict)  # per change
    change_cpu_ms: float = 0.0
    rest: dict[str, Rest] = field(default_factory=dict)


async def measure(size: Size) -> Report:
    report = Report(size)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-")))
        world = await stack.enter_async_context(make_world(size))
        await world.make_pools()
        scheduler = await stack.enter_async_context(_scheduler(world, folder))
        operator = await stack.enter_async_context(_operator(world, folder))
        await _first(world, operator, report)
        _told(f"first: {report.first_deployments_s:.1f} s, {report.first_ready_s:.1f} s")
        await _changes(world, operator, report)
        await asyncio.sleep(size.settle_s)
        await _rest([operator, scheduler], report)
        report.operator_starts = operator.starts
    return report


async def _first(world: World, operator: Process, report: Report) -> None:
    began, size = time.perf_counter(), world.size
    await world.deployments.until(lambda found: len(found) == size.pools, FIRST_S)
    report.first_deployments_s = time.perf_counter() - began
    await world.pools.until(
        lambda found: all(ready(pool) == size.pods for pool in found.values()), FIRST_S
    )
    report.first_ready_s = time.perf_counter() - began
    report.first_calls, report.first_cpu_s = operator.counter.take(), operator.cpu_s()


async def _changes(world: World, operator: Process, report: Report) -> None:
    """One pod more each time. One fewer would wait for the drain of an instance that is none."""
    await asyncio.sleep(world.size.settle_s)
    operator.counter.take()
    cpu_s, size = operator.cpu_s(), world.size
    for number in range(size.changes):
        turn, which = divmod(number, size.pools)
        deployment_ms, status_ms = await world.change(f"pool-{which:03}", size.pods + turn + 1)
        report.change_deployment_ms.append(deployment_ms)
        report.change_status_ms.append(status_ms)
    calls = operator.counter.take()
    report.change_calls = {kind: n / size.changes for kind, n in sorted(calls.items())}
    report.change_cpu_ms = 1e3 * (operator.cpu_s() - cpu_s) / size.changes


async def _rest(processes: list[Process], report: Report) -> None:
    before = {p.name: p.cpu_s() for p in processes}
    for process in processes:
        process.counter.take()
    began = time.perf_counter()
    await asyncio.sleep(report.size.rest_s)
    minutes = (time.perf_counter() - began) / 60
    for process in processes:
        calls = {kind: n / minutes for kind, n in sorted(process.counter.take().items())}
        cpu_s = (process.cpu_s() - before[process.name]) / minutes
        report.rest[process.name] = Rest(calls, cpu_s, process.memory_mib())


@asynccontextmanager
async def _scheduler(world: World, folder: Path) -> AsyncIterator[Process]:
    port_file = folder / "scheduler"
    arguments = ("--kubernetes", "--lease", f"{world.namespace}/shunter-scheduler")
    async with _process(
        world, folder, "scheduler", *arguments, "--listen", _address(port_file)
    ) as p:
        yield p


@asynccontextmanager
async def _operator(world: World, folder: Path) -> AsyncIterator[Process]:
    arguments = ("--engine-image", "none", "--lease-namespace", world.namespace)
    scheduler = (folder / "scheduler").read_text()
    async with _process(world, folder, "operator", *arguments, "--scheduler", scheduler) as p:
        yield p


def _address(file: Path) -> str:
    """One that was free a moment ago, for the operator to find."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    file.write_text(address)
    return address


@asynccontextmanager
async def _process(
    world: World, folder: Path, name: str, *arguments: str
) -> AsyncIterator[Process]:
    """`shunter NAME` for the world's namespace."""
    command = (
        sys.executable, "-m", "shunter", name, f"--namespace={world.namespace}", *arguments,
        "--metrics-port", "0",
    )  # fmt: skip
    async with counted(find_access(os.environ), folder, name) as counter:
        process = Process(name, command, counter, folder / f"{name}.log")
        running = asyncio.create_task(process.keep_running())
        try:
            await asyncio.sleep(0)
            yield process
        except TimeoutError:
            sys.stderr.write(process.log.read_text()[-4000:])
            raise
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _told(text: object) -> None:
    print(text, file=sys.stderr, flush=True)


def show(report: Report) -> None:
    size = report.size
    print(f"{size.pools} pools, {size.pools * size.pods} pods")
    print(
        f"first: Deployments {report.first_deployments_s:.1f} s, all ready "
        f"{report.first_ready_s:.1f} s, CPU {report.first_cpu_s:.1f} s, "
        f"operator started {report.operator_starts} times"
    )
    print(f"  calls: {report.first_calls}")
    for what, took in (
        ("Deployment written", report.change_deployment_ms),
        ("status current", report.change_status_ms),
    ):
        print(f"change, {what}: median {statistics.median(took):.0f} ms, max {max(took):.0f} ms")
    print(f"  CPU {report.change_cpu_ms:.1f} ms, calls: {report.change_calls}")
    for name, rest in report.rest.items():
        print(f"rest, {name}: CPU {rest.cpu_s:.2f} s/min, {rest.memory_mib:.0f} MiB, calls/min:")
        for kind, count in rest.calls.items():
            print(f"  {count:8.1f}  {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--pods", type=int, default=5, help="of each pool")
    parser.add_argument("--changes", type=int, default=40)
    parser.add_argument("--rest", type=float, default=120.0, help="seconds")
    parser.add_argument("--settle", type=float, default=30.0, help="seconds between the parts")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    size = Size(given.pools, given.pods, given.changes, given.rest, given.settle)
    report = asyncio.run(measure(size))
    show(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=2))


if __name__ == "__main__":
    main()
