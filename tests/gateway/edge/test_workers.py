"""Several processes behind one port, and their one page of metrics."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from shunter_gateway.telemetry import GatewayMetrics
from shunter_gateway.worker_metrics import WorkerMetrics, added


def sample(page: bytes, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(page.decode()):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    return None


async def page_of(*observed_s: float) -> bytes:
    metrics = GatewayMetrics()
    for value in observed_s:
        metrics.ttft.labels("chat").observe(value)
        metrics.requests.labels("chat", "200").inc()
    return await WorkerMetrics(metrics.registry, None).page()


async def test_pages_add_up() -> None:
    whole = added([await page_of(0.2, 0.4), await page_of(0.3), b""])
    assert sample(whole, "shunter_gateway_requests_total", model="chat", code="200") == 3
    assert sample(whole, "shunter_gateway_ttft_seconds_count", model="chat") == 3
    assert sample(whole, "shunter_gateway_ttft_seconds_bucket", model="chat", le="0.3") == 2
    assert b"# TYPE shunter_gateway_ttft_seconds histogram" in whole
    assert b"_created" not in whole


async def test_one_worker_tells_the_others(tmp_path: Path) -> None:
    metrics = GatewayMetrics()
    pages = WorkerMetrics(metrics.registry, tmp_path)
    await pages.start()
    (tmp_path / "dead.sock").touch()
    metrics.local_dispatches.inc()
    try:
        (tmp_path / f"{os.getpid()}.sock").rename(tmp_path / "other.sock")
        assert sample(await pages.page(), "shunter_gateway_local_dispatches_total") == 2
    finally:
        await pages.close()


def test_two_workers_share_a_port_and_end_together() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "shunter_gateway", "--workers", "2"]
    address = ["--listen", f"127.0.0.1:{port}", "--grpc-listen", "", "--scheduler", "127.0.0.1:1"]
    with subprocess.Popen([*command, *address], stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        try:
            pids: set[int] = set()
            while len(pids) < 2:
                line = json.loads(parent.stderr.readline())
                if line["event"] == "gateway_serving":
                    pids.add(line["pid"])
            url = f"http://127.0.0.1:{port}"
            for _ in range(10):
                try:
                    urllib.request.urlopen(f"{url}/v1/none", timeout=10)
                except urllib.error.HTTPError as error:
                    error.close()
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                page = answer.read()
            name = "shunter_gateway_requests_total"
            assert sample(page, name, model="unknown", code="404") == 10
        finally:
            parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
