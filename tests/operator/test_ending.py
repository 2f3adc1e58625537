"""How the operator's process ends, whatever its API server does: real processes and signals."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube_server import KubeServer, kube_server
from lease_api import write_kubeconfig
from shunter_operator.testing import pool_body

START_S = 30.0
END_S = 20.0  # of the 30 s that Kubernetes leaves a pod


@dataclass(frozen=True, slots=True)
class Operator:
    process: subprocess.Popen[bytes]
    log: Path

    def said(self, event: str) -> bool:
        return f'"event": "{event}"' in self.log.read_text()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_S):
            while not holds():
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.05)

    async def ends(self) -> int:
        return await asyncio.to_thread(self.process.wait, END_S)


@contextmanager
def operator(server: KubeServer, folder: Path, *more: str) -> Iterator[Operator]:
    config = write_kubeconfig(folder / "config", server.url)
    command = (
        *(sys.executable, "-m", "shunter", "operator", "--engine-image=none"),
        *("--namespace=a", "--lease-namespace=a", "--scheduler=127.0.0.1:1", "--metrics-port=0"),
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *more],
            env={**os.environ, "KUBECONFIG": str(config)},
            stdout=out,
            stderr=out,
        )
        try:
            yield Operator(process, log)
        finally:
            process.kill()
            process.wait()


def _watches_pools(server: KubeServer) -> bool:
    return any(path.endswith("/modelpools") for path in server.watched)


@pytest.mark.parametrize("its_server", ["answers", "hangs", "is gone"])
async def test_a_leader_ends(its_server: str, tmp_path: Path) -> None:
    async with kube_server() as server:
        with operator(server, tmp_path) as running:
            await running.until(lambda: _watches_pools(server))
            if its_server == "hangs":
                server.hanging.set()
            if its_server == "is gone":
                await server.close()
            running.process.terminate()
            assert await running.ends() == 0
            assert running.said("operator.stopping")
        if its_server == "answers":
            assert server.leases.holder("shunter-operator") == ""


async def test_it_ends_in_the_middle_of_a_pass(tmp_path: Path) -> None:
    pool = pool_body("chat")
    pool["metadata"]["namespace"] = "a"
    async with kube_server() as server:
        server.hangs_at = "/deployments/chat-h100"
        server.objects["modelpools"] = [pool]
        with operator(server, tmp_path) as running:
            await running.until(server.hanging.is_set)
            running.process.terminate()
            assert await running.ends() == 0


async def test_it_ends_before_it_could_start(tmp_path: Path) -> None:
    async with kube_server() as server:
        server.hanging.set()
        with operator(server, tmp_path) as running:
            await running.until(lambda: bool(server.asked))
            running.process.terminate()
            assert await running.ends() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    webhooks = ("--webhooks=x", "--webhook-host=127.0.0.1", "--webhook-port=0")
    async with kube_server() as server:
        with operator(server, tmp_path, *webhooks) as running:
            await running.until(lambda: _watches_pools(server))
            running.process.terminate()
            await running.until(lambda: running.said("operator.stopping"))  # answers 5 s more
            running.process.send_signal(number)
            assert await running.ends() != 0
