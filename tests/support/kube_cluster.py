"""A real API server for tests: $KUBECONFIG, or the cluster tools of this machine."""

import asyncio
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from helm_chart import find_tool, kube_tools
from scripted_scheduler import ScriptedScheduler, scripted_scheduler
from shunter_operator.__main__ import OperatorOptions, serve
from shunter_operator.controller import Pace
from shunter_operator.names import READINESS_GATE
from shunter_operator.scheduler_client import FRESH_S
from shunter_runtime.kube_access import KubeAccess, find_access
from shunter_runtime.kube_api import APPLY, MERGE, STRATEGIC, KubeApi, NotFound, kube_api

CRDS = Path(__file__).resolve().parents[2] / "charts" / "shunter" / "crds"
FAKE_NODES = 10
UP_TIMEOUT_S = 120
WAIT_S = 30.0
POLL_S = 0.1
# Quick enough for tests; in other respects the operator is as it is.
PACE = Pace(period_s=0.5, gather_s=0.2, first_retry_s=0.2, last_retry_s=1.0)
T = TypeVar("T")


def kubeconfig() -> str:
    """Of a control plane with fake nodes. Skips the test where there is none."""
    if named := os.environ.get("KUBECONFIG"):
        return named
    tools = kube_tools()
    if tools is None or find_tool("kubectl") is None:
        pytest.skip("no cluster: set KUBECONFIG, or SHUNTER_KUBE to built cluster tools")
    for arguments in (["--control-plane"], ["--fake-nodes", str(FAKE_NODES)]):
        done = subprocess.run(
            [str(tools / "up"), *arguments], capture_output=True, text=True, timeout=UP_TIMEOUT_S
        )
        if done.returncode:
            pytest.fail(f"the cluster does not come up: {done.stderr[-2000:]}")
    return done.stdout.strip()


@dataclass
class Cluster:
    """A namespace of its own on the API server."""

    api: KubeApi
    namespace: str
    scheduler: ScriptedScheduler
    scheduler_address: str
    running: asyncio.Task[None] | None = None

    async def apply(self, name: str, **spec: Any) -> None:
        """A ModelPool, as `kubectl apply --server-side`."""
        body = {
            "apiVersion": "shunter.dev/v1alpha1",
            "kind": "ModelPool",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "model": {"source": "sim://llama-3.1-8b"},
                "engine": {"type": "simulated"},
                **spec,
            },
        }
        query = {"fieldManager": "test", "force": "true"}
        await self.api.patch(self.path("modelpools", name), body, APPLY, query)

    async def pool(self, name: str) -> dict[str, Any]:
        return await self.api.get(self.path("modelpools", name))

    async def pods(self, profile: str) -> list[dict[str, Any]]:
        query = {"labelSelector": f"shunter.dev/profile={profile}"}
        return list((await self.api.list(self.path("pods"), query)).items)

    async def ready(self, profile: str) -> list[str]:
        """Names of the pods that serve."""
        found = []
        for pod in await self.pods(profile):
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
            gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", ())]
            serves = all(conditions.get(kind) == "True" for kind in ("Ready", *gates))
            if serves and "deletionTimestamp" not in pod["metadata"]:
                found.append(pod["metadata"]["name"])
        return sorted(found)

    async def all_ready(self, profile: str, count: int) -> list[str]:
        """Once so many of them serve."""

        async def there() -> int:
            return len(await self.ready(profile))

        await self.becomes(there, count)
        return await self.ready(profile)

    async def deployments(self) -> dict[str, int]:
        """Replicas asked for, by name."""
        listing = await self.api.list(self.path("deployments"))
        return {d["metadata"]["name"]: d["spec"]["replicas"] for d in listing.items}

    async def versions(self) -> dict[str, str]:
        """Resource versions of everything that an operator may write here."""
        found: dict[str, str] = {}
        for kind in ("deployments", "services", "serviceaccounts", "pods", "modelpools",
                     "poddisruptionbudgets", "events"):  # fmt: skip
            for item in (await self.api.list(self.path(kind))).items:
                metadata = item["metadata"]
                found[f"{kind}/{metadata['name']}"] = metadata["resourceVersion"]
        return found

    async def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Status and reason."""
        conditions = (await self.pool(name)).get("status", {}).get("conditions", [])
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))

    async def becomes(
        self, ask: Callable[[], Awaitable[T]], wanted: T, wait_s: float = WAIT_S
    ) -> None:
        """Asks until the answer is as wanted."""
        deadline = time.monotonic() + wait_s
        while (found := await ask()) != wanted:
            assert time.monotonic() < deadline, f"{found!r} does not become {wanted!r}"
            if self.running is not None and self.running.done():
                self.running.result()  # raises what it died of
            await asyncio.sleep(POLL_S)

    async def conditioned(
        self, name: str, kind: str, status: str, reason: str, wait_s: float = WAIT_S
    ) -> None:
        await self.becomes(lambda: self.condition(name, kind), (status, reason), wait_s)

    async def scaled(self, **replicas: int) -> None:
        """Underscores stand for hyphens."""
        wanted = {name.replace("_", "-"): count for name, count in replicas.items()}
        await self.becomes(self.deployments, wanted)

    async def serve(self, running: dict[str, int]) -> None:
        """So many requests run on each instance, and the operator has heard of it."""
        self.scheduler.instances = running
        await asyncio.sleep(FRESH_S + 0.1)

    async def patch_pod_status(self, name: str, status: Mapping[str, Any]) -> None:
        await self.api.patch(
            f"{self.path('pods', name)}/status", {"status": dict(status)}, STRATEGIC
        )

    async def patch_node(self, name: str, spec: Mapping[str, Any]) -> None:
        await self.api.patch(f"/api/v1/nodes/{name}", {"spec": dict(spec)}, MERGE)

    async def label_node(self, name: str, value: str | None) -> None:
        """With this namespace's name as the label's key."""
        patch = {"metadata": {"labels": {self.namespace: value}}}
        await self.api.patch(f"/api/v1/nodes/{name}", patch, MERGE)

    @asynccontextmanager
    async def tainted(self, node: str) -> AsyncIterator[None]:
        """Nothing new is scheduled there meanwhile; this namespace's name is the taint's key."""
        path = f"/api/v1/nodes/{node}"

        async def others() -> list[dict[str, Any]]:
            taints = (await self.api.get(path))["spec"].get("taints") or []
            return [taint for taint in taints if taint["key"] != self.namespace]

        ours = {"key": self.namespace, "effect": "NoSchedule"}
        await self.api.patch(path, {"spec": {"taints": [*await others(), ours]}}, MERGE)
        try:
            yield
        finally:
            await self.api.patch(path, {"spec": {"taints": await others()}}, MERGE)

    async def keep_readiness_gates(self) -> None:
        """Fake nodes know no readiness gates: this does what a kubelet does. Until cancelled."""
        while True:
            for pod in (await self.api.list(self.path("pods"))).items:
                conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
                fake = str(pod["spec"].get("nodeName", "")).startswith("fake-")
                gated = fake and pod["spec"].get("readinessGates")
                if not gated or "Initialized" not in conditions:
                    continue
                both = {conditions.get(READINESS_GATE), conditions.get("ContainersReady")}
                wanted = "True" if both == {"True"} else "False"
                if conditions.get("Ready") != wanted:
                    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    ready = {"type": "Ready", "status": wanted, "lastTransitionTime": now}
                    try:
                        name = pod["metadata"]["name"]
                        await self.patch_pod_status(name, {"conditions": [ready]})
                    except NotFound:
                        continue
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def operator(self, image: str = "shunter:test") -> AsyncIterator["RunningOperator"]:
        """A whole operator, in the test's own loop. Fake nodes run no image, so any will do."""
        options = OperatorOptions(
            image=image,
            namespaces=(self.namespace,),
            lease_namespace=self.namespace,
            scheduler=self.scheduler_address,
            metrics_host="127.0.0.1",
            metrics_port=0,
            pace=PACE,
        )
        running = RunningOperator()
        self.running = asyncio.create_task(serve(options, running.stop, running.watches))
        task = self.running
        try:
            yield running
        finally:
            running.stop.set()
            async with asyncio.timeout(WAIT_S):
                await task

    def path(self, plural: str, name: str = "") -> str:
        folder = f"{_GROUPS[plural]}/namespaces/{self.namespace}/{plural}"
        return f"{folder}/{name}" if name else folder


@dataclass
class RunningOperator:
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def watches(self, port: int) -> None:
        self.port = port
        self.watching.set()


_GROUPS = {
    "pods": "/api/v1",
    "services": "/api/v1",
    "serviceaccounts": "/api/v1",
    "configmaps": "/api/v1",
    "events": "/api/v1",
    "resourcequotas": "/api/v1",
    "deployments": "/apis/apps/v1",
    "modelpools": "/apis/shunter.dev/v1alpha1",
    "poddisruptionbudgets": "/apis/policy/v1beta1",
}


@asynccontextmanager
async def cluster(config: str) -> AsyncIterator[Cluster]:
    """A namespace that is gone afterwards, and a scheduler that answers as told."""
    namespace = f"o2-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    async with scripted_scheduler() as (scheduler, address), kube_api(_access(config)) as api:
        await _install_crds(api)
        await api.create("/api/v1/namespaces", body)
        made = Cluster(api, namespace, scheduler, address)
        await _service_account(made)
        gates = asyncio.create_task(made.keep_readiness_gates())
        try:
            yield made
        finally:
            gates.cancel()
            await asyncio.gather(gates, return_exceptions=True)
            await _remove(made)


def _access(config: str) -> KubeAccess:
    return find_access({"KUBECONFIG": config})


async def _install_crds(api: KubeApi) -> None:
    """A cluster without CEL drops the rules."""
    folder = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for file in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        try:
            await api.patch(f"{folder}/{crd['metadata']['name']}", crd, MERGE)
        except NotFound:
            await api.create(folder, crd)


async def _service_account(made: Cluster) -> None:
    """Until a controller has made it, pods are refused."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await made.api.get(made.path("serviceaccounts", "default"))
                return
            except NotFound:
                await asyncio.sleep(POLL_S)


async def _remove(made: Cluster) -> None:
    """No operator is left, so nobody else takes the finalizers off."""
    for item in (await made.api.list(made.path("modelpools"))).items:
        patch = {"metadata": {"finalizers": None}}
        await made.api.patch(made.path("modelpools", item["metadata"]["name"]), patch, MERGE)
    try:
        await made.api.delete(f"/api/v1/namespaces/{made.namespace}")
    except NotFound:  # the test has done it
        return
