"""Real processes: restarted when they die, gone when told to, never outliving their owner."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from shunter.failure import Failure
from shunter.up import bound
from shunter.up.child import ChildSpec
from shunter.up.fleet import Fleet
from shunter.up.launch import reachable
from shunter.up.ports import Ports, join_address

SERVER = "import http.server,sys; http.server.test(HandlerClass=http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"  # fmt: skip # noqa: E501


def spec(tmp_path: Path, name: str, *argv: str, port: int = 0) -> ChildSpec:
    return ChildSpec(
        name=name,
        role="engine",
        argv=(sys.executable, "-c", *argv),
        address=f"127.0.0.1:{port}",
        health_url=f"http://127.0.0.1:{port}/",
        log=tmp_path / f"{name}.log",
    )


def server(tmp_path: Path, name: str) -> ChildSpec:
    port = Ports().free()
    return spec(tmp_path, name, SERVER, str(port), port=port)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Fleet, list[str]]]:
    news: list[str] = []
    fleet = Fleet(news.append, lambda: None)
    probing = asyncio.create_task(fleet.probe())
    try:
        yield fleet, news
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await fleet.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_killed_child_is_restarted_and_serves_again(tmp_path: Path) -> None:
    async with running() as (fleet, news):
        child = fleet.start(server(tmp_path, "a"))
        await fleet.wait_ready(["a"], 20)
        first = child.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: "a serves again" in news)
        assert child.pid != first
        assert "a was killed by SIGKILL; restart in 0.2 s" in news
    assert not psutil.pid_exists(child.pid or first)


async def test_stop_ends_children_that_ignore_sigterm_and_their_children(tmp_path: Path) -> None:
    code = (
        "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    fleet = Fleet(lambda _: None, lambda: None)
    child = fleet.start(spec(tmp_path, "a", code))
    await until(lambda: child.log_tail().isdigit())
    grandchild, pid = int(child.log_tail()), child.pid
    await child.stop(grace_s=0.2)
    await fleet.stop()
    assert not psutil.pid_exists(pid)
    await until(lambda: _gone(grandchild))


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_child_that_keeps_dying_fails_the_start_with_its_last_words(tmp_path: Path) -> None:
    async with running() as (fleet, _):
        fleet.start(spec(tmp_path, "a", "raise SystemExit('no such model')"))
        with pytest.raises(Failure, match=r"(?s)a died 3 times at start.*no such model") as failure:
            await fleet.wait_ready(["a"], 20)
    assert str(tmp_path / "a.log") in failure.value.next_step


async def test_a_child_that_never_serves_fails_the_start(tmp_path: Path) -> None:
    async with running() as (fleet, _):
        fleet.start(spec(tmp_path, "a", "import time; time.sleep(60)", port=1))
        with pytest.raises(Failure, match=r"a does not serve after 0\.3 s"):
            await fleet.wait_ready(["a"], 0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_bound_child_ends_with_its_parent() -> None:
    parent = (
        "import os,subprocess,sys,time;"
        f"p = subprocess.Popen([sys.executable, {bound.__file__!r}, str(os.getpid()),"
        " sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'],"
        " stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    psutil.wait_procs([child], timeout=10)
    assert _gone(child.pid)


def test_a_taken_port_is_named_with_its_option() -> None:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(Failure, match=f"127.0.0.1:{port}") as failure:
            Ports().wanted("127.0.0.1", port, "--port")
    assert "--port 0" in failure.value.next_step
    assert Ports().wanted("127.0.0.1", 0, "--port") > 0


def test_a_host_that_is_not_here_is_a_failure_not_a_traceback() -> None:
    with pytest.raises(Failure, match=r"cannot listen on no-such-host\.invalid:0") as failure:
        Ports().wanted("no-such-host.invalid", 0, "--port")
    assert "--host" in failure.value.next_step


@pytest.mark.parametrize(
    ("host", "listen", "connect"),
    [
        ("127.0.0.1", "127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0", "0.0.0.0:80", "127.0.0.1:80"),
        ("::1", "[::1]:80", "[::1]:80"),
        ("::", "[::]:80", "[::1]:80"),
    ],
)
def test_addresses_to_listen_on_and_to_connect_to(host: str, listen: str, connect: str) -> None:
    assert join_address(host, 80) == listen
    assert reachable(listen) == connect
