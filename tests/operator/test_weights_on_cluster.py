"""Weights on a real cluster: a hub in this process, a volume, kubelets, and a real small model."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_hub import FakeHub, serving
from helm_release import IMAGE, REAL_NODE, Machine, machine
from kube_cluster import Cluster, cluster
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_runtime.kube_api import MERGE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
TOKEN = "hf_right"
SOURCE = "hf://org/name/tiny.gguf"
WAIT_S = 120.0


@pytest.fixture(scope="session")
def nodes() -> Machine:
    return machine()


@pytest.fixture
async def kube(nodes: Machine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", nodes.kubeconfig)
    async with cluster(nodes.kubeconfig) as made:
        yield made


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    content = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    store = FakeHub(files={"tiny.gguf": content}, token=TOKEN, hold_after=1 << 16)
    with serving(store, _address_for_pods()):
        yield store


def _address_for_pods() -> str:
    """As pods see this machine: $SHUNTER_HOST_ADDRESS, or what the cluster tools give it."""
    address = os.environ.get("SHUNTER_HOST_ADDRESS", "10.89.0.1")
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            pytest.skip(f"pods do not see this machine as {address}: set SHUNTER_HOST_ADDRESS")
    return address


def _secret(token: str) -> dict[str, Any]:
    data = {"token": base64.b64encode(token.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf"}, "data": data}


def _claim() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "weights"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def _profile(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "accelerator": "l4-24gb",
        "replicas": {"min": 1, "max": 1},
        "nodeSelector": {REAL_NODE: "yes", "node-pool": name},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }


async def _open_to_all(kube: Cluster) -> None:
    """Volumes that are folders of a machine belong to root: `fsGroup` is not for them."""
    claims = f"/api/v1/namespaces/{kube.namespace}/persistentvolumeclaims"

    async def bound() -> str:
        claim = await kube.api.get(f"{claims}/weights")
        return str(claim["status"].get("phase"))

    await kube.becomes(bound, "Bound")
    name = (await kube.api.get(f"{claims}/weights"))["spec"]["volumeName"]
    volume = await kube.api.get(f"/api/v1/persistentvolumes/{name}")
    if folder := volume["spec"].get("hostPath", {}).get("path"):
        await asyncio.to_thread(Path(folder).chmod, 0o777)


async def test_one_download_for_two_nodes_after_a_token_that_was_refused(
    kube: Cluster, hub: FakeHub
) -> None:
    secrets = f"/api/v1/namespaces/{kube.namespace}/secrets"
    await kube.api.create(secrets, _secret("hf_wrong"))
    await kube.api.create(f"/api/v1/namespaces/{kube.namespace}/persistentvolumeclaims", _claim())

    await _open_to_all(kube)

    async def phases() -> dict[str, str]:
        status = (await kube.pool("tiny")).get("status", {})
        return {p["name"]: p["phase"] for p in status.get("profiles", ())}

    async with kube.operator(image=IMAGE):
        await kube.apply(
            "tiny",
            model={
                "source": SOURCE,
                "contextLength": 512,
                "credentialsSecretRef": {"name": "hf"},
                "cache": {"pvc": "weights"},
            },
            engine={
                "type": "numpy",
                "env": [{"name": "HF_ENDPOINT", "value": hub.url}],
                "files": [{"name": "note.txt", "content": "mounted"}],
            },
            profiles=[_profile("a100"), _profile("l4")],
        )
        await kube.conditioned("tiny", "Degraded", "True", "WeightsUnauthorized", wait_s=WAIT_S)
        assert not hub.downloads

        await kube.api.patch(f"{secrets}/hf", _secret(TOKEN), MERGE)
        for profile in ("a100", "l4"):  # not to wait until the kubelet tries again
            for pod in await kube.pods(profile):
                await kube.api.delete(kube.path("pods", pod["metadata"]["name"]))
        downloading = {"a100": "Downloading", "l4": "Downloading"}
        await kube.becomes(phases, downloading, wait_s=WAIT_S)
        assert hub.begun.wait(30)
        hub.go.set()
        await kube.conditioned("tiny", "Progressing", "False", "Complete", wait_s=WAIT_S)
        assert hub.downloads == {"tiny.gguf": 1}
        assert await phases() == {"a100": "Ready", "l4": "Ready"}
        maps = (await kube.api.list(kube.path("configmaps"))).items
        data = [m["data"] for m in maps if m["metadata"]["name"].startswith("tiny-files-")]
        assert data == [{"note.txt": "mounted"}], "and the kubelets mounted it"
