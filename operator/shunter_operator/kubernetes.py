"""`Cluster` on the API server: the only module here that writes to Kubernetes."""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import quote

from shunter_operator.cluster import Body, ClusterError
from shunter_operator.names import FIELD_MANAGER, GROUP, VERSION, Ref
from shunter_operator.pods import time_text
from shunter_operator.values import Event, Manifest
from shunter_runtime.kube_api import (
    APPLY,
    MERGE,
    STRATEGIC,
    KubeApi,
    KubeError,
    NotFound,
    Refused,
)

MAX_MESSAGE = 1024

_PATHS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "Deployment": ("/apis/apps/v1", "deployments"),
        "Service": ("/api/v1", "services"),
        "ServiceAccount": ("/api/v1", "serviceaccounts"),
        "ConfigMap": ("/api/v1", "configmaps"),
        "Pod": ("/api/v1", "pods"),
        "ModelPool": (f"/apis/{GROUP}/{VERSION}", "modelpools"),
        "RoutingPolicy": (f"/apis/{GROUP}/{VERSION}", "routingpolicies"),
    }
)


class KubernetesCluster:
    """`Cluster`; `pdb_api_version` is what the server has. Once it no longer `leads` it writes
    nothing: another may, by now."""

    def __init__(self, api: KubeApi, pdb_api_version: str, leads: Callable[[], bool]) -> None:
        self._api = api
        self._leads = leads
        self._paths = {
            **_PATHS,
            "PodDisruptionBudget": (f"/apis/{pdb_api_version}", "poddisruptionbudgets"),
        }

    async def namespace_ends(self, namespace: str) -> bool:
        try:
            body = await self._api.get(f"/api/v1/namespaces/{quote(namespace)}")
        except NotFound:
            return True
        except Refused:
            return False
        except KubeError as error:
            raise ClusterError(f"Namespace {namespace}: {error}") from error
        return "deletionTimestamp" in body["metadata"]

    async def apply(self, manifest: Manifest) -> None:
        self._check_lead()
        metadata = manifest["metadata"]
        ref = Ref(manifest["kind"], metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        try:
            await self._api.patch(self._path(ref), manifest, APPLY, query)
        except KubeError as error:
            raise ClusterError(f"applying {ref}: {error}") from error

    async def delete(self, ref: Ref) -> None:
        self._check_lead()
        try:
            await self._api.delete(self._path(ref), {"propagationPolicy": "Background"})
        except NotFound:
            return
        except KubeError as error:
            raise ClusterError(f"deleting {ref}: {error}") from error

    async def merge(self, ref: Ref, patch: Manifest, subresource: str = "") -> None:
        await self._patch(ref, patch, subresource, MERGE)

    async def set_pod_condition(self, pod: Ref, kind: str, holds: bool) -> None:
        condition = {
            "type": kind,
            "status": "True" if holds else "False",
            "lastTransitionTime": time_text(datetime.now(UTC)),
        }
        await self._patch(pod, {"status": {"conditions": [condition]}}, "status", STRATEGIC)

    async def emit(self, about: Body, event: Event) -> None:
        self._check_lead()
        namespace = about["metadata"]["namespace"]
        path = f"/api/v1/namespaces/{quote(namespace)}/events"
        try:
            await self._api.create(path, event_body(about, event, datetime.now(UTC)))
        except KubeError as error:
            raise ClusterError(f"Event {event.reason}: {error}") from error

    def _check_lead(self) -> None:
        if not self._leads():
            raise ClusterError("this operator leads no more")

    def _path(self, ref: Ref) -> str:
        prefix, plural = self._paths[ref.kind]
        return f"{prefix}/namespaces/{quote(ref.namespace)}/{plural}/{quote(ref.name)}"

    async def _patch(self, ref: Ref, patch: Manifest, subresource: str, kind: str) -> None:
        self._check_lead()
        path = self._path(ref) + (f"/{subresource}" if subresource else "")
        try:
            await self._api.patch(path, patch, kind)
        except NotFound:
            return
        except KubeError as error:
            raise ClusterError(f"patching {ref}: {error}") from error


def event_body(about: Body, event: Event, now: datetime) -> Manifest:
    metadata = about["metadata"]
    involved = {name: metadata[name] for name in ("name", "namespace", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], **involved},
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:MAX_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": time_text(now),
        "lastTimestamp": time_text(now),
        "count": 1,
    }


async def pdb_api_version(api: KubeApi) -> str:
    """The one that the server prefers. Raises `ClusterError`."""
    try:
        group = await api.get("/apis/policy")
        return str(group["preferredVersion"]["groupVersion"])
    except (KubeError, KeyError, TypeError) as error:
        raise ClusterError(f"the API group policy: {error}") from error


async def server_version(api: KubeApi) -> tuple[int, int]:
    """Major and minor. Raises `ClusterError`."""
    try:
        version = await api.get("/version")
    except KubeError as error:
        raise ClusterError(f"the server's version: {error}") from error
    minor = "".join(c for c in str(version.get("minor", "")) if c.isdigit())
    return int(version.get("major") or 1), int(minor or 0)


def knows_deletion_cost(version: tuple[int, int]) -> bool:
    """Whether ReplicaSets delete pods by their deletion cost: from 1.22 on (KEP-2255)."""
    return version >= (1, 22)


def knows_unhealthy_eviction(version: tuple[int, int]) -> bool:
    """Whether a disruption budget may let pods go that are not ready: from 1.27 on (KEP-3017)."""
    return version >= (1, 27)
