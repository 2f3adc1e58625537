"""`shunter fetch` as processes: in a race, killed, told to end, and refused."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeHub, serving
from shunter_api.weights import folder_name
from shunter_text.hub import HubOptions
from shunter_text.model_files import FetchOptions
from shunter_text.weights_lock import LockTimes
from shunter_text.weights_store import StoreOptions, fetch_weights

SOURCE = "hf://org/name"
SHARD = bytes(range(256)) * 4096  # 1 MiB
FILES = {"config.json": b"{}", "a.safetensors": SHARD, "model.safetensors": SHARD[::-1] * 3}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    store = FakeHub(files=dict(FILES))
    with serving(store):
        yield store


def held_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


FETCH = [sys.executable, "-m", "shunter", "fetch", SOURCE]


def process(hub: FakeHub, root: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*FETCH, "--to", str(root), "--report", str(root / "report")],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_processes_that_race_one_downloads(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 1 << 19
    with process(hub, tmp_path) as one, process(hub, tmp_path) as other:
        assert hub.begun.wait(30)
        assert one.stderr is not None and other.stderr is not None
        threading.Timer(0.5, hub.go.set).start()  # time for the second to come and see the first
        said = [p.communicate(timeout=60) for p in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert {out.strip() for out, _ in said} == {str(tmp_path / folder_name(SOURCE))}
    assert set(hub.downloads.values()) == {1}
    assert any("waiting for the download by" in err for _, err in said)
    assert not any("hf_secret" in text for pair in said for text in pair)


def test_after_kill_9_the_next_goes_on_where_it_ended(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 1 << 20
    with process(hub, tmp_path, SHUNTER_FETCH_HOLDER="pod-a") as killed:
        assert hub.begun.wait(30)
        big = tmp_path / f".{folder_name(SOURCE)}.partial" / "model.safetensors.part"
        while not (big.is_file() and big.stat().st_size):
            assert killed.poll() is None
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    hub.go.set()
    hub.starts.clear()
    fetch = FetchOptions(cache=tmp_path, hub=HubOptions(endpoint=hub.url), deadline_s=30)
    quick = LockTimes(beat_s=0.05, stale_s=1.5, poll_s=0.02)
    path = fetch_weights(SOURCE, StoreOptions(tmp_path, "pod-b", fetch, lock=quick))
    assert held_files(path) == FILES
    assert any(start > 0 for start in hub.starts), "the beginning was not loaded again"


def test_a_process_that_is_told_to_end_leaves_no_lock(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 1 << 19
    with process(hub, tmp_path) as ended:
        assert hub.begun.wait(30)
        ended.terminate()
        ended.communicate(timeout=30)
    assert ended.returncode == 143
    assert not list(tmp_path.glob(".*.lock"))


def test_a_failure_is_reported_in_a_line(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "another"
    with process(hub, tmp_path) as refused:
        _, said = refused.communicate(timeout=30)
    assert refused.returncode == 1 and "set HF_TOKEN" in said
    report = (tmp_path / "report").read_text()
    assert report.startswith("WeightsUnauthorized: hf://org/name: ")
    assert "hf_secret" not in report + said


def test_a_long_failure_is_cut_behind_its_reason(hub: FakeHub, tmp_path: Path) -> None:
    """Of more than 4 kB a kubelet keeps the end."""
    hub.token = "hf_secret"
    hub.files = {f"{n}-{'x' * 100}.gguf": b"x" for n in range(200)}
    report = tmp_path / "report"
    asked = [*FETCH[:-1], f"{SOURCE}/none.gguf", "--to", str(tmp_path), "--report", str(report)]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}
    assert subprocess.run(asked, env=environment, capture_output=True, timeout=60).returncode == 1
    said = report.read_bytes()
    assert said.startswith(b"WeightsNotFound: ") and len(said) <= 4096
