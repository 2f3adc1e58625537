"""`python -m shunter_scheduler` as a process: start, logs, metrics, TLS files, a clean end."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest

from scheduler_service import Config
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_scheduler.service.testing import GatewayClient, submission

SECRET = "hunter2"


class Running:
    """The process, the ports from its log, and all that it logged."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def event(self, name: str) -> dict[str, object]:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                event: dict[str, object] = json.loads(line)
                if event["event"] == name:
                    return event
        raise AssertionError(f"ended without {name}: {self.lines}")

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            _, rest = await self.process.communicate()
        self.lines.extend(rest.decode().splitlines())
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def scheduler_process(*arguments: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shunter_scheduler", *arguments, stderr=PIPE
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_serves_logs_counts_and_ends_cleanly(config: Config) -> None:
    arguments = ("--config", str(config.path), "--listen", "127.0.0.1:0", "--metrics-port", "0")
    async with scheduler_process(*arguments) as running:
        metrics_port = (await running.event("scheduler.metrics"))["port"]
        port = (await running.event("scheduler.serving"))["port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.SchedulerStub(channel)
            async with GatewayClient(channel) as gateway:
                await gateway.submit(
                    "r-1", headers={"authorization": SECRET, "x-tier": SECRET}, tenant=SECRET
                )
                await gateway.command("r-1")
                await gateway.submit("r-2", block_hashes=b"123", headers={"x-tier": SECRET})
                await gateway.status()
            bad = pb.DispatchRequest(request=submission("r-3", model=SECRET))
            assert (await stub.Dispatch(bad, timeout=10)).reject.reason == "unknown_model"
        page = await get(f"http://127.0.0.1:{metrics_port}/metrics")
        assert 'shunter_decisions_total{kind="assign"} 1.0' in page
        assert 'shunter_rejected_requests_total{reason="unknown_model"} 1.0' in page
        assert 'shunter_sessions_closed_total{code="INVALID_ARGUMENT"} 1.0' in page
        assert 'shunter_pool_ready_instances{pool="chat"} 2.0' in page
        assert SECRET not in page
        assert await get(f"http://127.0.0.1:{metrics_port}/health") == "ok\n"

        assert await running.end(signal.SIGTERM) == 0
        logged = "\n".join(running.lines)
        assert SECRET not in logged
        events = [json.loads(line)["event"] for line in running.lines if line.strip()]
        assert "gateway.connected" in events and "gateway.session_closed" in events
        assert events[-1] == "scheduler.stopping"


async def get(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as reply:
        return await reply.text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tls-cert", "nowhere.pem", "--tls-key", "nowhere.key"), "nowhere.pem: No such file"),
        (("--log-level", "loud"), "unknown log level 'loud'"),
    ],
)
async def test_what_cannot_start_says_why(
    config: Config, arguments: tuple[str, ...], message: str
) -> None:
    async with scheduler_process("--config", str(config.path), *arguments) as running:
        async with asyncio.timeout(20):
            _, err = await running.process.communicate()
        assert running.process.returncode == 2
        assert message in err.decode().splitlines()[-1]


async def test_a_broken_configuration_is_refused_with_its_place(config: Config) -> None:
    config.path.write_text(config.path.read_text().replace("contextLength", "contextLenth"))
    async with scheduler_process("--config", str(config.path)) as running:
        async with asyncio.timeout(20):
            _, err = await running.process.communicate()
        assert running.process.returncode == 2
        assert "contextLenth" in err.decode() and "config.yaml:" in err.decode()


async def test_a_taken_port_is_refused(config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("--config", str(config.path), "--listen", listen)
        async with scheduler_process(*arguments) as running, asyncio.timeout(20):
            _, err = await running.process.communicate()
    assert running.process.returncode == 2
    assert f"cannot listen on {listen}" in err.decode().splitlines()[-1]
