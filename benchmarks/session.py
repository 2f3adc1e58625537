"""What a decision costs the scheduler's process, over the auto-batched stream and by unary calls.

    python benchmarks/session.py [--rounds 5] [--requests 20000] [--json FILE]

The scheduler is the real process with 128 instances that it polls once a second as ever; the load
comes from this process. CPU is the scheduler's own utime + stime (psutil), less what it takes idle
(measured first, shown last), which belongs to seconds, not to requests. Prompts have 2,048 tokens
(32 block hashes), half of each shared with others. Rounds of all cases are interleaved; the table
has medians, and the lowest CPU time since other work on the machine only ever adds.

    decide   submitted -> assigned, 64 in flight; each ends with `finished` at once
    life     submitted -> assigned -> first token -> 8 progress reports -> finished, 64 in flight;
             as at a gateway, one message reports the progress of all that made some
    single   as decide, 1 in flight: the round trip
    unary    Dispatch + Complete instead of the stream
    explain  reading one explanation
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
import uvloop
import yaml
from aiohttp import web
from session_load import Load, StreamClient

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_runtime.grpc_polling import VARIABLE, poll_directly

INSTANCES = 128


@dataclass
class Result:
    """`cpu_us` is the scheduler's CPU time per request without its idle share."""

    name: str
    in_flight: int
    requests: int
    cpu_us: float
    per_cpu_second: float
    wall_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Case:
    name: str
    call: Callable[[], Awaitable[float]]
    in_flight: int
    requests: int

    async def run(self, count: int) -> list[float]:
        """Round trips in seconds of `count` requests."""

        async def worker() -> list[float]:
            return [await self.call() for _ in range(count // self.in_flight)]

        took = await asyncio.gather(*(worker() for _ in range(self.in_flight)))
        return [one for part in took for one in part]


async def measure(case: Case, process: psutil.Process, idle: float) -> Result:
    await case.run(max(case.in_flight, case.requests // 10))
    before, start = cpu_s(process), time.perf_counter()
    took = sorted(await case.run(case.requests))
    await asyncio.sleep(0.02)  # the last `finished` are on their way
    wall = time.perf_counter() - start
    cpu = cpu_s(process) - before - idle * wall
    return Result(
        name=case.name,
        in_flight=case.in_flight,
        requests=len(took),
        cpu_us=cpu / len(took) * 1e6,
        per_cpu_second=len(took) / cpu,
        wall_per_s=len(took) / wall,
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[int(len(took) * 0.99)] * 1000,
    )


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def engines() -> AsyncIterator[list[str]]:
    """128 ports that say that they are healthy."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    for _ in range(INSTANCES):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield [f"127.0.0.1:{address[1]}" for address in runner.addresses]
    finally:
        await runner.cleanup()


def write_config(path: Path, addresses: list[str]) -> None:
    api = {"apiVersion": "shunter.dev/v1alpha1"}
    keys = ("h100-sxm-80gb", "a100-80gb", "l4-24gb")
    profiles = [{"name": key, "accelerator": key} for key in keys]
    spec = {
        "model": {"source": "sim://llama-3.1-8b", "contextLength": 32768},
        "engine": {"type": "simulated"},
        "profiles": profiles,
    }
    items = [
        {"name": f"chat-{i}", "pool": "chat", "profile": keys[i % 3], "address": address}
        for i, address in enumerate(addresses)
    ]
    pool = {**api, "kind": "ModelPool", "metadata": {"name": "chat"}, "spec": spec}
    instances = {**api, "kind": "InstanceList", "items": items}
    path.write_text(yaml.safe_dump_all([pool, instances]))


@asynccontextmanager
async def scheduler(config: Path) -> AsyncIterator[tuple[int, str]]:
    """Process id and address of a scheduler with every instance ready."""
    command = [sys.executable, "-m", "shunter_scheduler", "--config", str(config)]
    command += ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--log-level", "info"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        port = 0
        while not port:
            event = json.loads(await process.stderr.readline())
            port = event["port"] if event["event"] == "scheduler.serving" else 0
        yield process.pid, f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.communicate()


async def all_ready(stub: "pb_grpc.SchedulerAsyncStub") -> None:
    async with asyncio.timeout(30):
        while True:
            status = await stub.Status(pb.StatusRequest(), timeout=10)
            if sum(one.state == "ready" for one in status.instances) == INSTANCES:
                return
            await asyncio.sleep(0.1)


async def benchmark(rounds: int, requests: int) -> tuple[list[Result], float]:
    """All rounds, and the share of a core that an idle scheduler takes."""
    async with AsyncExitStack() as stack:
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bench.yaml"
        write_config(config, await stack.enter_async_context(engines()))
        pid, target = await stack.enter_async_context(scheduler(config))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        stub = pb_grpc.SchedulerStub(channel)
        await all_ready(stub)
        client = StreamClient(stub)
        client.send(pb.GatewayEvent(hello=pb.Hello(gateway_id="bench")))
        running = asyncio.create_task(client.run())
        await client.known.wait()
        results, idle = await measure_all(Load(client, stub), psutil.Process(pid), rounds, requests)
        status = await stub.Status(pb.StatusRequest(), timeout=10)
        left = sum(one.running for one in status.instances)
        assert left == 0, f"{left} requests left in the ledger"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return results, idle


async def measure_all(
    load: Load, process: psutil.Process, rounds: int, requests: int
) -> tuple[list[Result], float]:
    few = max(requests // 20, 100)
    cases = (
        Case("decide", load.decide, 64, requests),
        Case("life", load.life, 64, requests // 2),
        Case("single", load.decide, 1, few),
        Case("unary", load.unary, 64, max(requests // 10, 640)),
        Case("unary", load.unary, 1, few),
        Case("explain", load.explain, 1, few),
    )
    idle = await idle_share(process)
    return [await measure(case, process, idle) for _ in range(rounds) for case in cases], idle


async def idle_share(process: psutil.Process) -> float:
    before = cpu_s(process)
    await asyncio.sleep(3)
    return (cpu_s(process) - before) / 3


def summary(results: list[Result]) -> list[dict[str, float | str]]:
    """Per case the median over rounds, and the lowest CPU time."""
    table = []
    for name, in_flight in dict.fromkeys((r.name, r.in_flight) for r in results):
        rows = [asdict(r) for r in results if (r.name, r.in_flight) == (name, in_flight)]
        median = {
            key: statistics.median(row[key] for row in rows)
            for key in ("cpu_us", "per_cpu_second", "wall_per_s", "p50_ms", "p99_ms")
        }
        lowest = min(row["cpu_us"] for row in rows)
        table.append({"name": name, "in_flight": in_flight, "cpu_us_min": lowest, **median})
    return table


def show(table: list[dict[str, float | str]], idle: float) -> None:
    print(f"{'case':10}{'in flight':>10}{'CPU us':>10}{'(min)':>10}{'per CPU s':>12}", end="")
    print(f"{'per wall s':>12}{'p50 ms':>10}{'p99 ms':>10}")
    for row in table:
        print(f"{row['name']:10}{row['in_flight']:>10}{row['cpu_us']:>10.1f}", end="")
        print(f"{row['cpu_us_min']:>10.1f}{row['per_cpu_second']:>12.0f}", end="")
        print(f"{row['wall_per_s']:>12.0f}{row['p50_ms']:>10.3f}{row['p99_ms']:>10.3f}")
    cpu = {(row["name"], row["in_flight"]): float(row["cpu_us"]) for row in table}
    ratio = cpu["unary", 64] / cpu["decide", 64]
    print(f"unary Dispatch + Complete costs {ratio:.1f} x the stream's decision at 64 in flight")
    print(f"idle: {idle:.1%} of a core for {INSTANCES} instances polled each second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if VARIABLE not in os.environ:  # gRPC was imported without the switches that gateways set
        poll_directly(os.environ)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    results, idle = uvloop.run(benchmark(options.rounds, options.requests))
    table = summary(results)
    show(table, idle)
    if options.json:
        document = {"idle_share": idle, "summary": table, "rounds": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
