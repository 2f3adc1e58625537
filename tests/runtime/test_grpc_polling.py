"""gRPC's switches: set where nobody else set them, before gRPC is imported, and known to it."""

import os
import subprocess
import sys

import pytest

from shunter_runtime.grpc_polling import DIRECT, VARIABLE, poll_directly

OTHERS = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}

SERVE = """
import asyncio, os
from shunter_runtime.grpc_polling import poll_directly
poll_directly(os.environ)
import grpc.aio

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)
    await server.stop(None)

asyncio.run(main())
"""

START = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            sys.exit("switches: " + os.environ.get("GRPC_EXPERIMENTS", "not set"))

module, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Watch())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("given", ["", "event_engine_listener"])
def test_what_the_environment_says_is_kept(given: str) -> None:
    environ = {VARIABLE: given}
    poll_directly(environ)
    assert environ == {VARIABLE: given}


def said(script: str, *arguments: str, **environ: str) -> str:
    """What a process says on stderr."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**OTHERS, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    ).stderr


def test_the_installed_grpc_obeys_the_switches() -> None:
    """If this fails after an upgrade: measure again, then drop the switches (docs/adr/0008)."""
    trace = {"GRPC_VERBOSITY": "debug", "GRPC_TRACE": "tcp,event_engine_endpoint"}
    direct = said(SERVE, **trace)
    assert "tcp_posix.cc" in direct
    assert "posix_endpoint.cc" not in direct
    assert "Unknown experiment" not in direct
    assert "posix_endpoint.cc" in said(SERVE, **trace, **{VARIABLE: ""})


@pytest.mark.parametrize(
    "command",
    [
        ("shunter_scheduler", "--config", "none.yaml"),
        ("shunter_gateway",),
        ("shunter", "scheduler", "--config", "none.yaml"),
        ("shunter", "gateway"),
    ],
    ids=" ".join,
)
def test_processes_set_them_before_they_import_grpc(command: tuple[str, ...]) -> None:
    assert f"switches: {DIRECT}" in said(START, *command)
