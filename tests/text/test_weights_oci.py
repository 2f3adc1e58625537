"""Weights out of an OCI registry: artifacts of files, with and without credentials."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_hub
from fake_hub import FakeRegistry, serving
from shunter_api.weights import OCI_SOURCE
from shunter_text import weights_oci
from shunter_text.hub import HubOptions
from shunter_text.model_files import FetchOptions, ModelFileError, OciAccess
from shunter_text.weights_oci import oci_origin
from shunter_text.weights_store import StoreOptions, fetch_weights

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 5000, "a/b.json": b"[1]"}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    store = FakeRegistry(files=dict(FILES))
    with serving(store):
        yield store


def fetched(registry: FakeRegistry, root: Path, end: str = ":v1", password: str = "p4ss") -> Path:
    fetch = FetchOptions(
        cache=root, oci=OciAccess("me", password), retries=1, retry_wait_s=0.01, deadline_s=30
    )
    source = f"oci://{registry.address}/org/model{end}"
    return fetch_weights(source, StoreOptions(root=root, holder="me", fetch=fetch))


def held(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop(".shunter-weights.json")
    return found


@pytest.mark.parametrize("scheme", ["", "Basic", "Bearer"])
def test_an_artifact_comes_whole(registry: FakeRegistry, tmp_path: Path, scheme: str) -> None:
    registry.scheme = scheme
    assert held(fetched(registry, tmp_path)) == FILES
    assert (registry.tokens > 0) == (scheme == "Bearer")


def test_an_index_leads_to_its_manifest(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.index = True
    assert held(fetched(registry, tmp_path)) == FILES


def test_model_packs_name_their_files_too(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.title = "org.cncf.model.filepath"
    registry.media_type = "application/vnd.cncf.model.weight.v1.raw"
    assert held(fetched(registry, tmp_path)) == FILES


def test_one_gguf_of_an_artifact(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.files["m.gguf"] = b"gguf"
    path = fetched(registry, tmp_path, ":v1/m.gguf")
    assert path.name == "m.gguf" and held(path.parent) == {"m.gguf": b"gguf"}
    with pytest.raises(ModelFileError, match=r"the artifact has .*m\.gguf") as missing:
        fetched(registry, tmp_path, ":v1/n.gguf")
    assert missing.value.reason == "WeightsNotFound"


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_wrong_password_is_refused_and_never_told(
    registry: FakeRegistry, tmp_path: Path, scheme: str
) -> None:
    registry.scheme = scheme
    with pytest.raises(ModelFileError, match="OCI_PASSWORD that may pull it") as refused:
        fetched(registry, tmp_path, password="wr0ng")
    assert refused.value.reason == "WeightsUnauthorized"
    assert "wr0ng" not in f"{refused.value}{OciAccess('me', 'wr0ng')!r}"


def test_a_tag_that_is_not_there(registry: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="404") as missing:
        fetched(registry, tmp_path, ":v2")
    assert missing.value.reason == "WeightsNotFound"


def test_other_bytes_than_the_digest_are_not_kept(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.lies = True
    with pytest.raises(ModelFileError, match="sha256 is") as corrupt:
        fetched(registry, tmp_path)
    assert corrupt.value.reason == "WeightsCorrupt"


def test_a_token_that_ends_before_its_file_is_asked_for_again(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    """Registries give tokens for minutes, and a file may take an hour."""
    registry.scheme, registry.breaks_after = "Bearer", 500_000
    registry.files = {"model.safetensors": FILES["model.safetensors"]}
    assert held(fetched(registry, tmp_path)) == registry.files
    assert registry.starts == [0, 500_000, 1_000_000]


@pytest.mark.parametrize("index", [False, True])
def test_a_manifest_of_another_digest_is_not_taken(
    registry: FakeRegistry, tmp_path: Path, index: bool
) -> None:
    registry.forges, registry.index = True, index
    digest = hashlib.sha256(fake_hub._manifest(registry)).hexdigest()
    with pytest.raises(ModelFileError, match="manifest with another digest") as corrupt:
        fetched(registry, tmp_path, ":v1" if index else f"@sha256:{digest}")
    assert corrupt.value.reason == "WeightsCorrupt"
    registry.forges = False
    assert held(fetched(registry, tmp_path, f"@sha256:{digest}")) == FILES
    pinned = fetched(registry, tmp_path, f":no-such-tag@sha256:{digest}")
    assert held(pinned) == FILES, "the digest counts"


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.cncf.model.weight.v1.tar"],
)
def test_images_are_not_unpacked(registry: FakeRegistry, tmp_path: Path, media_type: str) -> None:
    registry.media_type = media_type
    with pytest.raises(ModelFileError, match="images and archives are not unpacked"):
        fetched(registry, tmp_path)


@pytest.mark.parametrize("rest", ["model", "ghcr.io/Org/model", "ghcr.io/a:v1/x.bin", "ghcr.io/"])
def test_what_is_no_reference(tmp_path: Path, rest: str) -> None:
    with pytest.raises(ModelFileError, match="expected oci://REGISTRY/REPOSITORY:TAG"):
        oci_origin(rest, FetchOptions(cache=tmp_path))


def test_a_password_is_not_sent_in_the_clear() -> None:
    """Wherever a registry says that its tokens are."""
    secured = weights_oci._Repository(
        "oci://x", "https://reg.example/v2/x", OciAccess("me", "p4ss")
    )
    with pytest.raises(ModelFileError, match="credentials sent in the clear"):
        secured._answer('Bearer realm="http://reg.example/token"', HubOptions())


@given(st.from_regex(OCI_SOURCE, fullmatch=True))
def test_what_a_pool_may_name_is_a_reference(source: str) -> None:
    assert weights_oci._REFERENCE.fullmatch(source.removeprefix("oci://").rstrip("\n"))
