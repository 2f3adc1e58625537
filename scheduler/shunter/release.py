"""What the chart's hooks do on a cluster: before and after an upgrade, and before the removal."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import structlog
import yaml

from shunter_api.crd import modelpools, routingpolicies, without_cel
from shunter_operator.admission.registration import CONFIGURATIONS, KINDS
from shunter_operator.names import FINALIZER, GROUP, VERSION, service_name
from shunter_runtime.kube_api import (
    APPLY,
    MERGE,
    Conflict,
    Listing,
    NotFound,
    Object,
    Unreachable,
)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OPERATOR = "shunter-operator"
DEMO = "shunter-demo"
_PLURALS = {"ModelPool": "modelpools", "RoutingPolicy": "routingpolicies"}
CEL_SINCE = (1, 25)  # rules in schemas: on by default from Kubernetes 1.25 on (KEP-2876)
POLL_S = 1.0
STOP_S = 10.0  # for a Deployment's pods to be told to end, however long the pools took
LEASE_S = 15.0  # a Lease that nobody gave away has run out by then

log = structlog.get_logger(__name__)


class Api(Protocol):
    """Of `shunter_runtime.kube_api.KubeApi` what is used here. Every call raises `KubeError`."""

    async def get(self, path: str) -> Object: ...

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing: ...

    async def create(self, path: str, body: Object) -> Object: ...

    async def replace(self, path: str, body: Object) -> Object: ...

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object: ...

    async def delete(self, path: str) -> Object: ...


@dataclass(frozen=True, slots=True)
class Release:
    """`wide`: its operator works for every namespace, not only for the release's own. `webhooks`:
    the name of its webhook configurations; empty: it has none."""

    name: str
    namespace: str
    wide: bool
    webhooks: str = ""

    @property
    def pools(self) -> str:
        place = "" if self.wide else f"/namespaces/{quote(self.namespace)}"
        return f"/apis/{GROUP}/{VERSION}{place}/modelpools"

    @property
    def lease(self) -> str:
        """By which the operator that acts is known."""
        place = f"namespaces/{quote(self.namespace)}"
        return f"/apis/coordination.k8s.io/v1/{place}/leases/{OPERATOR}"

    @property
    def operator(self) -> str:
        return f"/apis/apps/v1/namespaces/{quote(self.namespace)}/deployments/{OPERATOR}"


@dataclass(frozen=True, slots=True)
class Pause:
    """How waiting is done; a test's time runs as it likes."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def version_of(version: Object) -> tuple[int, int]:
    """Of `GET /version`; clouds write a minor version such as `28+`."""
    minor = "".join(c for c in str(version.get("minor", "")) if c.isdigit())
    return int(version.get("major") or 1), int(minor or 0)


def definitions(version: tuple[int, int]) -> tuple[Object, ...]:
    """The CustomResourceDefinitions of this command, as a server of that version takes them."""
    known = (modelpools(), routingpolicies())
    return known if version >= CEL_SINCE else tuple(without_cel(known_one) for known_one in known)


async def apply_definitions(api: Api) -> None:
    """The CustomResourceDefinitions of this version: Helm itself never changes those that are
    there. Raises `KubeError`."""
    version = version_of(await api.get("/version"))
    for body in definitions(version):
        name = body["metadata"]["name"]
        try:
            before = await api.get(f"{DEFINITIONS}/{name}")
        except NotFound:
            await api.create(DEFINITIONS, body)
        else:
            await api.replace(f"{DEFINITIONS}/{name}", {**before, "spec": body["spec"]})
        log.info("release.definition_applied", name=name, cel=version >= CEL_SINCE)


async def apply_demo(api: Api, namespace: str, wait_s: float, pause: Pause) -> None:
    """The objects in the ConfigMap of the chart's demo, which owns them: they go with it.

    A server that cannot take them yet, because definitions or webhooks are only starting, is asked
    again for `wait_s` at most. Raises `KubeError`.
    """
    folder = f"/api/v1/namespaces/{quote(namespace)}/configmaps"
    config = await api.get(f"{folder}/{DEMO}")
    uid = config["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": DEMO, "uid": uid}
    deadline = pause.clock() + wait_s
    for body in yaml.safe_load_all(config["data"]["demo.yaml"]):
        metadata = {**body["metadata"], "namespace": namespace, "ownerReferences": [owner]}
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{quote(namespace)}/{_PLURALS[body['kind']]}"
        path = f"{path}/{quote(metadata['name'])}"
        query = {"fieldManager": DEMO, "force": "true"}
        while True:
            try:
                await api.patch(path, {**body, "metadata": metadata}, APPLY, query)
                break
            except (Unreachable, NotFound):
                if pause.clock() >= deadline:
                    raise
                await pause.sleep(POLL_S)
        log.info("release.demo_applied", kind=body["kind"], name=metadata["name"])


async def prepare_removal(api: Api, release: Release, wait_s: float, pause: Pause) -> None:
    """Leaves nothing that only an operator could delete, and nothing that asks one.

    The webhooks go first: from then on nothing is refused because nobody answers. The release's
    own pools are deleted while the operator still drains them, for `wait_s` at most. Other pools
    stay as their owners left them, and their engines run on: once the operator has stopped, its
    finalizer is taken off all that remain, and their disruption budgets go, since they would hold
    evictions until an operator has emptied the pods. Where the definitions have been deleted,
    their pools have gone with them. Raises `KubeError`.
    """
    deadline = pause.clock() + wait_s
    for plural in KINDS if release.webhooks else ():
        await _ignore_missing(api.delete(f"{CONFIGURATIONS}/{plural}/{quote(release.webhooks)}"))
        log.info("release.webhooks_deleted", configuration=plural)
    own = {"labelSelector": f"app.kubernetes.io/instance={release.name}"}
    for pool in await _pools(api, release, own):
        await _ignore_missing(api.delete(_path(pool)))
        log.info("release.pool_deleted", pool=_path(pool))
    while await _pools(api, release, own):
        if pause.clock() >= deadline:
            log.warning("release.pools_not_drained", waited_s=wait_s)
            break
        await pause.sleep(POLL_S)
    await _stop_operator(api, release, pause)
    policy = (await api.get("/apis/policy"))["preferredVersion"]["groupVersion"]
    for pool in await _pools(api, release):
        await _ignore_missing(api.delete(_budget(pool, policy)))
        await _release(api, _path(pool))


async def _pools(
    api: Api, release: Release, query: Mapping[str, str] | None = None
) -> tuple[Object, ...]:
    try:
        return (await api.list(release.pools, query)).items
    except NotFound:
        return ()


async def _stop_operator(api: Api, release: Release, pause: Pause) -> None:
    """It would put its finalizer back."""
    deadline = pause.clock() + STOP_S
    try:
        await api.patch(f"{release.operator}/scale", {"spec": {"replicas": 0}}, MERGE)
        while (await api.get(release.operator)).get("status", {}).get("replicas"):
            if pause.clock() >= deadline:
                log.warning("release.operator_still_runs")
                return
            await pause.sleep(POLL_S)
        # Pods that terminate are not counted: what stops gives its Lease away once it acts no more.
        limit = pause.clock() + LEASE_S
        while (await api.get(release.lease)).get("spec", {}).get("holderIdentity"):
            if pause.clock() >= limit:
                return
            await pause.sleep(POLL_S)
    except NotFound:
        return


async def _release(api: Api, path: str) -> None:
    while True:
        try:
            metadata = (await api.get(path))["metadata"]
            kept = [name for name in metadata.get("finalizers") or () if name != FINALIZER]
            if kept == (metadata.get("finalizers") or []):
                return
            # With the version that was seen: finalizers of others are never lost.
            change = {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}
            await api.patch(path, {"metadata": change}, MERGE)
        except Conflict:
            continue
        except NotFound:
            return
        log.info("release.finalizer_removed", pool=path)
        return


def _path(pool: Object) -> str:
    metadata = pool["metadata"]
    namespace, name = quote(metadata["namespace"]), quote(metadata["name"])
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/modelpools/{name}"


def _budget(pool: Object, group_version: str) -> str:
    metadata = pool["metadata"]
    namespace, name = quote(metadata["namespace"]), quote(service_name(metadata["name"]))
    return f"/apis/{group_version}/namespaces/{namespace}/poddisruptionbudgets/{name}"


async def _ignore_missing(call: Awaitable[Object]) -> None:
    try:
        await call
    except NotFound:
        return
