"""`shunter up` with real processes: one system, lived through from start to end."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from shunter.__main__ import build_app
from shunter.failure import Failure
from shunter.scheduler_client import scheduler_stub
from shunter.state import State, read_state
from shunter_proto.v1 import scheduler_pb2 as pb

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec:
  model: {source: "sim://llama-3.1-8b", aliases: [default]}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100, replicas: {min: 2}}]
"""
PORTS = ("--port", "0", "--grpc-port", "0", "--scheduler-port", "0")
WAIT_S = 60.0


def shunter(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "shunter", *arguments]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@dataclass
class Up:
    """A running `shunter up` of one file."""

    process: subprocess.Popen[bytes]
    folder: Path
    file: Path

    @property
    def state(self) -> State:
        state = read_state(self.folder)
        assert state
        return state

    @property
    def screen(self) -> str:
        return (self.folder / "screen").read_text()

    def status(self) -> pb.StatusReply:
        with scheduler_stub(self.state.scheduler) as stub:
            return stub.Status(pb.StatusRequest(), timeout=5)

    def ready(self) -> list[str]:
        return [i.name for i in self.status().instances if i.state == "ready"]

    def models(self) -> list[str]:
        with urllib.request.urlopen(f"http://{self.state.http}/v1/models", timeout=5) as answer:
            return [model["id"] for model in json.load(answer)["data"]]

    def run(self, *arguments: str) -> Result:
        """A command on this system, in this process."""
        return CliRunner().invoke(
            build_app(), [*arguments, "--state-dir", str(self.folder)], catch_exceptions=False
        )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    file = folder / "pools.yaml"
    file.write_text(POOL)
    with (folder / "screen").open("wb") as screen:
        command = shunter("up", str(file), "--state-dir", str(folder), *PORTS)
        process = subprocess.Popen(command, stdout=screen, stderr=screen)
    running = Up(process, folder, file)
    try:
        until(lambda: _is_ready(running), "`shunter up` is not ready")
        yield running
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(running: Up) -> bool:
    assert running.process.poll() is None, running.screen
    state = read_state(running.folder)
    return state is not None and state.ready


def test_it_shows_endpoints_instances_and_a_request_that_works(up: Up) -> None:
    assert up.ready() == ["chat-h100-0", "chat-h100-1"]
    assert {"chat", "default"} <= set(up.models())
    (curl,) = [line for line in up.screen.splitlines() if line.startswith("curl ")]
    result = subprocess.run(
        curl.replace('"stream":true', '"stream":true,"max_tokens":5'),
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert '"content":' in result.stdout  # tokens that come at once are one piece
    assert '"finish_reason":"length"' in result.stdout
    assert "data: [DONE]" in result.stdout


def test_status_and_explain_find_it_by_its_state_directory(up: Up) -> None:
    assert "chat-h100-0" in up.run("status").stdout
    assert "dispatch -> chat-h100-" in up.run("explain").stdout
    assert f"shunter top --state-dir {up.folder}" in up.screen


def test_demo_failover_passes_and_the_killed_engine_comes_back(up: Up) -> None:
    before = {process.name: process.pid for process in up.state.processes}
    result = up.run("demo", "failover", "--streams", "20", "--tokens", "150")
    assert result.exit_code == 0, result.output
    assert "complete         20/20" in result.stdout
    assert "identical texts  20/20" in result.stdout
    until(lambda: up.ready() == ["chat-h100-0", "chat-h100-1"], "the killed engine is not back")
    after = {process.name: process.pid for process in up.state.processes}
    changed = [name for name, pid in after.items() if before[name] != pid]
    assert len(changed) == 1
    assert f"killed {changed[0]}" in result.stdout
    resumed = up.status().resumed_total
    assert resumed > 0, "the killed engine had streams"
    assert f"{resumed} resumed after a failure" in up.run("status").stdout
    until(lambda: f"{resumed} resumed after a failure" in up.screen, "the screen does not tell")


def test_drain_and_undrain(up: Up) -> None:
    result = up.run("drain", "chat-h100-1")
    assert "chat-h100-1 is drained" in result.stdout, result.output
    assert up.ready() == ["chat-h100-0"]
    assert up.run("undrain", "chat-h100-1").exit_code == 0
    until(lambda: len(up.ready()) == 2, "not taken back")


def test_a_second_up_on_the_same_directory_is_refused(up: Up) -> None:
    with pytest.raises(Failure, match=f"pid {up.process.pid}"):
        up.run("up", str(up.file), *PORTS)


def test_a_state_directory_that_cannot_be_is_refused(up: Up) -> None:
    with pytest.raises(Failure, match="cannot write into the state directory"):
        CliRunner().invoke(
            build_app(),
            ["up", str(up.file), "--state-dir", str(up.file), *PORTS],
            catch_exceptions=False,
        )


def test_an_open_port_without_keys_is_refused_before_anything_starts(up: Up) -> None:
    with pytest.raises(Failure, match=r"--host 0\.0\.0\.0:8080 is open to the network"):
        up.run("up", str(up.file), "--host", "0.0.0.0")


def test_edits_add_replace_and_remove_engines(up: Up) -> None:
    up.file.write_text(POOL.replace("min: 2", "min: 3"))
    until(lambda: len(up.ready()) == 3, "no third engine")

    before = {process.name: process.pid for process in up.state.processes}
    up.file.write_text(POOL.replace("min: 2", "min: 1").replace("simulated}", "simulated, args: [--seed, '7']}"))  # fmt: skip # noqa: E501
    until(lambda: "2 removed, 1 replaced" in up.screen, "the edit is not carried out")
    until(lambda: up.ready() == ["chat-h100-0"], "engines of the past are still there")
    process = up.state.process("chat-h100-0")
    assert process
    assert process.pid != before["chat-h100-0"]
    assert not psutil.pid_exists(before["chat-h100-2"])
    assert "--seed" in psutil.Process(process.pid).cmdline()


def test_a_bad_edit_is_refused_with_its_place_and_the_rest_goes_on(up: Up) -> None:
    good = up.file.read_text()
    up.file.write_text(good.replace("accelerator: h100", "accelerator: h10"))
    until(lambda: f"{up.file}:7: spec.profiles[0].accelerator" in up.screen, "not refused")
    place = f"{up.file}:7: spec.profiles[0].accelerator"
    until(lambda: place in up.status().config_error, "not told by its own name")
    assert up.ready() == ["chat-h100-0"]
    up.file.write_text(good)
    until(lambda: not up.status().config_error, "the mended file is not taken")


def test_an_end_by_signal_leaves_nothing_behind(up: Up) -> None:
    pids = [process.pid for process in up.state.processes]
    assert len(pids) == 3
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 0
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert read_state(up.folder) is None


def test_a_broken_file_stops_the_start_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("simulated", "simulatd"))
    command = shunter("up", str(tmp_path / "a.yaml"), "--state-dir", str(tmp_path), *PORTS)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 1
    assert f"{tmp_path}/a.yaml:6: spec.engine.type" in result.stderr
    assert "shunter validate" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_killed_up_takes_its_processes_along(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POOL.replace("min: 2", "min: 1"))
    command = shunter("up", str(tmp_path / "a.yaml"), "--state-dir", str(tmp_path), *PORTS)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: (state := read_state(tmp_path)) and state.ready, "not ready")
    state = read_state(tmp_path)
    assert state
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    until(lambda: not any(_lives(p.pid) for p in state.processes), "processes are left")


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_limited_run_ends_well(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    arguments = ("--state-dir", str(tmp_path), "--for", "0.1", *PORTS)
    command = shunter("up", str(tmp_path / "a.yaml"), *arguments)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "there is no ModelPool" in result.stdout
    assert result.stdout.endswith("stopping\n")
