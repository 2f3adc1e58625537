"""Weights out of a bucket: all of a prefix or one file, with and without keys."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeS3, serving
from shunter_api.weights import folder_name
from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.weights_s3 import s3_origin
from shunter_text.weights_store import StoreOptions, fetch_weights

SHARD = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": SHARD,
    "model-00002-of-00002.safetensors": SHARD[::-1] * 3,
    "nested/extra.json": b"[]",
    "empty.txt": b"",
}


def held_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    files = {f"llama/8b/{name}": content for name, content in FILES.items() if content}
    store = FakeS3(files={**files, "llama/8b-next/config.json": b"no", "m/one.gguf": SHARD})
    with serving(store):
        for name, value in (
            ("AWS_ENDPOINT_URL", store.url),
            ("AWS_ACCESS_KEY_ID", "AKIDTEST"),
            ("AWS_SECRET_ACCESS_KEY", "s3cr3t"),
            ("AWS_REGION", "eu-test-1"),
        ):
            monkeypatch.setenv(name, value)
        yield store


def s3_options(root: Path) -> StoreOptions:
    return StoreOptions(root, "me", FetchOptions(cache=root, deadline_s=30))


def test_a_prefix_comes_whole_over_several_pages(s3: FakeS3, tmp_path: Path) -> None:
    path = fetch_weights("s3://weights/llama/8b", s3_options(tmp_path))
    assert held_files(path) == {name: content for name, content in FILES.items() if content}
    assert s3.pages >= 2
    assert all(a.startswith("AWS4-HMAC-SHA256 Credential=AKIDTEST/") for a in s3.authorizations)


def test_one_gguf_of_a_bucket(s3: FakeS3, tmp_path: Path) -> None:
    path = fetch_weights("s3://weights/m/one.gguf", s3_options(tmp_path))
    assert path.name == "one.gguf" and path.read_bytes() == SHARD


def test_an_object_is_fetched_in_parts_and_goes_on_after_the_last(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shunter_text.weights_s3._PART_BYTES", 300_000)
    folder = tmp_path / f".{folder_name('s3://weights/m/one.gguf')}.partial"
    path = fetch_weights("s3://weights/m/one.gguf", s3_options(tmp_path))
    assert s3.starts == [0, 300_000, 600_000, 900_000]
    path.parent.rename(folder)
    (folder / "one.gguf").rename(folder / "one.gguf.part")
    os.truncate(folder / "one.gguf.part", 700_000)
    s3.starts.clear()
    assert fetch_weights("s3://weights/m/one.gguf", s3_options(tmp_path)).read_bytes() == SHARD
    assert s3.starts == [600_000, 900_000]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("s3://weights/none", "WeightsNotFound"),
        ("s3://weights/none.gguf", "WeightsNotFound"),
        ("s3://other/llama", "WeightsNotFound"),
    ],
)
def test_what_is_not_in_the_bucket(s3: FakeS3, tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(ModelFileError, match=source) as missing:
        fetch_weights(source, s3_options(tmp_path))
    assert missing.value.reason == reason


@pytest.mark.parametrize("source", ["s3://weights/llama/8b", "s3://weights/m/one.gguf"])
def test_keys_that_may_not_read(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    with pytest.raises(ModelFileError, match="AWS_SECRET_ACCESS_KEY that may") as refused:
        fetch_weights(source, s3_options(tmp_path))
    assert refused.value.reason == "WeightsUnauthorized"
    assert "s3cr3t" not in str(refused.value)


def test_an_object_that_changes_meanwhile_is_not_mixed(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = s3_origin("weights/m/one.gguf", FetchOptions(cache=tmp_path))
    s3.files["m/one.gguf"] = SHARD[::-1]
    with pytest.raises(ModelFileError, match="changes while it is read"):
        listed.fetch(listed.files[0], tmp_path / "part", FetchOptions(cache=tmp_path))


def test_markers_of_folders_are_no_files(s3: FakeS3, tmp_path: Path) -> None:
    """Consoles and some tools make them: empty objects whose key ends in a slash."""
    s3.files |= {"llama/8b/": b"", "llama/8b/nested/": b"", "llama/8b/empty.txt": b""}
    path = fetch_weights("s3://weights/llama/8b", s3_options(tmp_path))
    assert held_files(path) == FILES


def test_a_split_gguf_of_a_bucket_comes_with_its_other_parts(s3: FakeS3, tmp_path: Path) -> None:
    parts = {f"q/m-0000{n}-of-00002.gguf": b"part" * n for n in (1, 2)}
    s3.files |= {**parts, "q/other.gguf": b"x", "q/deep/m-00002-of-00002.gguf": b"x"}
    path = fetch_weights("s3://weights/q/m-00001-of-00002.gguf", s3_options(tmp_path))
    assert path.read_bytes() == b"part"
    assert sorted(held_files(path.parent)) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    with pytest.raises(ModelFileError, match=r"is not there: .*n-00001-of-00002") as missing:
        fetch_weights("s3://weights/q/n-00001-of-00002.gguf", s3_options(tmp_path))
    assert missing.value.reason == "WeightsNotFound"


def test_the_line_end_of_a_key_is_none_of_it(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t\n")
    fetch_weights("s3://weights/m/one.gguf", s3_options(tmp_path))
    assert s3.authorizations


def test_a_public_bucket_needs_no_keys(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.public = True
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    fetch_weights("s3://weights/m/one.gguf", s3_options(tmp_path))
    assert set(s3.authorizations) == {""}
