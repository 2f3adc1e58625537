"""Moves in a system of real processes: ordered by drains, and what is left of them afterwards."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import System

SLOWLY = 40.0  # while moves and kills come: no answer ends before, nor does a busy machine lag
IDLE = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "shunter:kv_moves_active",
    "shunter_gateway_inflight_requests",
)


def fault(system: System, engine: str, **body: object) -> None:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{system.ports[engine]}/faults",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(asked, timeout=10).close()


def drained(system: System, instance: str, moved: int) -> pb.DrainProgress:
    """Once it is empty, or so many have left it: then the drain goes on."""
    with system.scheduler() as stub:
        for progress in stub.Drain(pb.DrainRequest(instance=instance, deadline_ms=120_000)):
            if progress.done or progress.moved >= moved:
                return progress
    raise AssertionError(f"{instance} is not drained: {progress}")


def undrain(system: System, instance: str) -> None:
    with system.scheduler() as stub:
        stub.Undrain(pb.UndrainRequest(instance=instance))


def busiest(system: System) -> str:
    running = system.running()
    return max(running, key=lambda name: running[name])


def moved_by(system: System) -> dict[str, int]:
    """Moves that the gateway carried out, by rung."""
    with urllib.request.urlopen(f"{system.url}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
        samples = [one for family in families for one in family.samples]
    return {
        one.labels["rung"]: int(one.value)
        for one in samples
        if one.name == "shunter_gateway_moves_total" and one.labels["outcome"] == "moved"
    }


def held(system: System) -> Iterator[str]:
    """What engines and gateway still have, by their metrics."""
    for name in (*(spec.name for spec in system.engines), "gateway"):
        if name in system.processes:
            url = f"http://127.0.0.1:{system.ports[name]}/metrics"
            with urllib.request.urlopen(url, timeout=10) as page:
                lines = page.read().decode().splitlines()
            some = [line for line in lines if line.startswith(IDLE)]
            assert some, name
            yield from (f"{name} {x}" for x in some if float(x.rpartition(" ")[2]))


async def nothing_is_held(system: System) -> None:
    async with asyncio.timeout(30):
        while left := await asyncio.to_thread(lambda: list(held(system))):
            assert left
            await asyncio.sleep(0.1)
