"""A Lease in the Kubernetes API."""

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime

from shunter_runtime.kube_api import Conflict, KubeApi, KubeError, NotFound, Object
from shunter_runtime.lease import LeaseRecord
from shunter_runtime.lease_store import LeaseConflict, LeaseUnavailable

WATCH_S = 300.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class KubernetesLease:
    """`now` only fills the times that the Lease shows to people; nothing is decided by them."""

    def __init__(
        self, api: KubeApi, namespace: str, name: str, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._now = now
        self._last: Object | None = None  # labels and annotations of others stay as they are

    async def read(self, timeout_s: float) -> LeaseRecord | None:
        try:
            return self._seen(await self._api.get(self._path, timeout_s=timeout_s))
        except NotFound:
            self._last = None
            return None
        except KubeError as error:
            raise LeaseUnavailable(str(error)) from error

    async def write(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        body, exists = self._body(record), bool(record.version)
        try:
            if exists:
                return self._seen(await self._api.replace(self._path, body, timeout_s))
            return self._seen(await self._api.create(self._folder, body, timeout_s))
        except Conflict as error:
            raise LeaseConflict(str(error)) from error
        except KubeError as error:
            if exists and isinstance(
                error, NotFound
            ):  # deleted; where it cannot be created: trouble
                raise LeaseConflict(str(error)) from error
            raise LeaseUnavailable(str(error)) from error

    async def follow(self, version: str) -> AsyncGenerator[LeaseRecord | None]:
        query = {"fieldSelector": f"metadata.name={self._name}"}
        try:
            async for event in self._api.watch(self._folder, version, query, WATCH_S):
                if event.type == "DELETED":
                    self._last = None
                    yield None
                elif event.type != "BOOKMARK":
                    yield self._seen(event.object)
        except KubeError as error:
            raise LeaseUnavailable(str(error)) from error

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self._name}"

    def _seen(self, value: Object) -> LeaseRecord:
        self._last = value
        spec = value.get("spec") or {}
        return LeaseRecord(
            holder=spec.get("holderIdentity") or "",
            duration_s=float(spec.get("leaseDurationSeconds") or 1),
            transitions=int(spec.get("leaseTransitions") or 0),
            version=value["metadata"]["resourceVersion"],
        )

    def _body(self, record: LeaseRecord) -> Object:
        last = self._last or {}
        before = last.get("spec") or {}
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same_holder = before.get("holderIdentity") == record.holder
        spec: Object = {
            "leaseDurationSeconds": max(1, round(record.duration_s)),
            "leaseTransitions": record.transitions,
            "renewTime": now,
            "acquireTime": before.get("acquireTime", now) if same_holder else now,
        }
        if record.holder:
            spec["holderIdentity"] = record.holder
        metadata: Object = {"name": self._name, "namespace": self._namespace}
        if record.version:
            metadata = {**last.get("metadata", {}), "resourceVersion": record.version}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
