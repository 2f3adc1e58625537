"""The gateway as a process: options, start, readiness, graceful end."""

import asyncio
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from opentelemetry.trace import NoOpTracerProvider

from shunter_gateway.command import parse_arguments
from shunter_gateway.config import GatewayOptions, StartError, parse_address
from shunter_gateway.process import Ports, serve
from shunter_runtime.tls import TlsFiles

LOOPBACK = GatewayOptions(listen="127.0.0.1:0", grpc_listen="127.0.0.1:0", scheduler="127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (GatewayOptions(listen="0.0.0.0:8080"), "--api-keys"),
        (GatewayOptions(listen="[::]:8080"), "--insecure-open"),
        (GatewayOptions(grpc_listen="10.0.0.1:8081"), "--grpc-listen"),
        (GatewayOptions(listen="8080"), "--listen '8080' is not host:port"),
        (GatewayOptions(listen="127.0.0.1:99999"), "65535"),
        (GatewayOptions(scheduler="nowhere"), "--scheduler"),
        (GatewayOptions(workers=0), "--workers"),
        (GatewayOptions(workers=2, listen="127.0.0.1:0"), "cannot be 0"),
        (GatewayOptions(max_body_bytes=1), "--max-body-bytes"),
        (GatewayOptions(max_inflight_bytes=1 << 20), "--max-inflight-bytes"),
        (GatewayOptions(keep_alive_s=0), "--keep-alive"),
    ],
)
def test_options_that_cannot_be(options: GatewayOptions, problem: str) -> None:
    with pytest.raises(StartError) as caught:
        options.check()
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        GatewayOptions(),
        GatewayOptions(listen="localhost:8080", grpc_listen=""),
        GatewayOptions(listen="[::1]:8080"),
        GatewayOptions(listen="0.0.0.0:8080", api_keys=Path("keys.yaml")),
        GatewayOptions(listen="0.0.0.0:8080", insecure_open=True),
    ],
)
def test_options_that_can_be(options: GatewayOptions) -> None:
    options.check()


def test_addresses_and_flags() -> None:
    assert str(parse_address("[::1]:80", "--listen")) == "[::1]:80"
    given = parse_arguments(
        ["--listen", "0.0.0.0:1", "--insecure-open", "--workers", "3", "--grace", "2.5"]
    )
    assert (given.listen, given.insecure_open, given.workers) == ("0.0.0.0:1", True, 3)
    assert (given.grace_s, given.tls) == (2.5, None)
    tls = parse_arguments(["--tls-cert", "a", "--tls-key", "b"]).tls
    assert tls == TlsFiles(Path("a"), Path("b"))


async def with_gateway(options: GatewayOptions, check: Callable[[Ports], None]) -> None:
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    process = asyncio.create_task(serve(options, stop, NoOpTracerProvider(), started.set_result))
    done, _ = await asyncio.wait(
        {process, started}, return_when=asyncio.FIRST_COMPLETED, timeout=20
    )
    if process in done:
        await process
    try:
        await asyncio.to_thread(check, started.result())
    finally:
        stop.set()
        await asyncio.wait_for(process, 20)


def status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_without_a_scheduler_it_lives_but_is_not_ready() -> None:
    def check(ports: Ports) -> None:
        url = f"http://127.0.0.1:{ports.http}"
        assert status(f"{url}/health") == (200, "ok\n")
        assert status(f"{url}/ready") == (503, "not ready\n")
        assert "shunter_gateway_scheduler_connected 0.0" in status(f"{url}/metrics")[1]
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            data=b'{"model":"chat","messages":[{"role":"user","content":"hi"}]}',
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        with caught.value as error:
            assert error.code == 503
            assert error.headers["Retry-After"] == "1"
            assert b'"code":"no_topology"' in error.read()
        with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            grpc.channel_ready_future(channel).result(timeout=10)

    await with_gateway(LOOPBACK, check)


async def test_a_port_that_is_taken() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = GatewayOptions(listen=f"127.0.0.1:{port}", grpc_listen="", scheduler="127.0.0.1:1")
    try:
        with pytest.raises(StartError, match="choose another"):
            await with_gateway(options, lambda _: None)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_key_file_that_is_missing(tmp_path: Path) -> None:
    options = GatewayOptions(listen="127.0.0.1:0", grpc_listen="", api_keys=tmp_path / "none.yaml")
    with pytest.raises(StartError, match=r"none\.yaml"):
        await with_gateway(options, lambda _: None)


def test_the_command_says_what_is_wrong_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "shunter_gateway"]
    refused = subprocess.run(
        [*command, "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2
    assert "--insecure-open" in refused.stderr
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--grpc-listen", "", "--scheduler", "127.0.0.1:1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert any("gateway_serving" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
