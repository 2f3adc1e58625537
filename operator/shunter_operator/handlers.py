"""What kopf calls: watches fill the indices, and every change wakes the pool that it concerns.

kopf is used for its watches only: it writes nothing, neither annotations nor finalizers, since
passes are level-triggered and remember nothing of earlier handlers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import kopf

from shunter_api.validate import Known
from shunter_operator.cluster import PolicyRecord, PoolRecord
from shunter_operator.names import GROUP, LABEL_MANAGED_BY, MANAGED_BY, VERSION, PoolKey, Ref
from shunter_operator.pods import finished, pod_of
from shunter_operator.values import Pod
from shunter_operator.watches import Owned, Watches, owned, policy_record, pool_key, pool_record
from shunter_runtime.kube_access import KubeAccess

Wake = Callable[[PoolKey], None]

# kind, and how kopf selects it; the version of policy is the server's choice.
OWNED_KINDS = (
    ("Deployment", ("apps", "v1", "deployments")),
    ("Service", ("", "v1", "services")),
    ("ServiceAccount", ("", "v1", "serviceaccounts")),
    ("ConfigMap", ("", "v1", "configmaps")),
    ("PodDisruptionBudget", ("policy", None, "poddisruptionbudgets")),
)
PODS = ("", "v1", "pods")
# A watch ends by itself and begins again after so long; without a word from the server it is dead.
SERVER_TIMEOUT_S = 600  # whole: the server parses it as an integer
CLIENT_TIMEOUT_S = 630
CONNECT_TIMEOUT_S = 10


def registry_of(
    access: KubeAccess,
    watches: Watches,
    wake: Wake,
    wake_policy: Callable[[Ref], None],
    known: Known,
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return _session(access)

    _pools(registry, wake, known)
    _pods(registry, wake)
    for kind, selector in OWNED_KINDS:
        _owned(registry, kind, selector, wake)
    _policies(registry, wake_policy, known)

    @kopf.on.startup(registry=registry)
    def bind(**indices: Any) -> None:
        objects = {kind: indices[kind] for kind, _ in OWNED_KINDS}
        watches.bind(indices["pools"], indices["pods"], objects, indices["policies"])

    return registry


def settings_of(namespaces: tuple[str, ...]) -> kopf.OperatorSettings:
    """Only our own objects are watched, but for the resources themselves."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = bool(namespaces)  # a namespaced install may not look at CRDs
    settings.watching.server_timeout = SERVER_TIMEOUT_S
    settings.watching.client_timeout = CLIENT_TIMEOUT_S
    settings.watching.connect_timeout = CONNECT_TIMEOUT_S
    for selector in (PODS, *(selector for _, selector in OWNED_KINDS)):
        settings.watching.label_selectors[kopf_selector(selector)] = (
            f"{LABEL_MANAGED_BY}={MANAGED_BY}"
        )
    return settings


def kopf_selector(selector: tuple[str, str | None, str]) -> Any:
    group, version, plural = selector
    return tuple(part for part in (group, version, plural) if part is not None)


def _session(access: KubeAccess) -> kopf.AiohttpSession:
    """kopf's watches authenticate as all other calls do; kopf closes the session."""

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if value := await asyncio.to_thread(access.authorization):
            request.headers["Authorization"] = value
        return await handler(request)

    connector = aiohttp.TCPConnector(limit=0, ssl=access.tls)
    session = aiohttp.ClientSession(connector=connector, middlewares=(authorize,))
    return kopf.AiohttpSession(server=access.server, aiohttp_session=session)


def _pools(registry: kopf.OperatorRegistry, wake: Wake, known: Known) -> None:
    @kopf.index(GROUP, VERSION, "modelpools", id="pools", registry=registry)
    def index(body: kopf.Body, **_: Any) -> dict[PoolKey, PoolRecord]:
        record = pool_record(body, known)
        return {record.key: record}

    @kopf.on.event(GROUP, VERSION, "modelpools", id="pool", registry=registry)
    def changed(body: kopf.Body, **_: Any) -> None:
        wake(PoolKey(body["metadata"]["namespace"], body["metadata"]["name"]))


def _pods(registry: kopf.OperatorRegistry, wake: Wake) -> None:
    @kopf.index(*kopf_selector(PODS), id="pods", registry=registry)
    def index(body: kopf.Body, **_: Any) -> dict[PoolKey, Pod]:
        key = pool_key(body)
        return {key: pod_of(body)} if key is not None and not finished(body) else {}

    @kopf.on.event(*kopf_selector(PODS), id="pod", registry=registry)
    def changed(body: kopf.Body, **_: Any) -> None:
        if key := pool_key(body):
            wake(key)


def _owned(
    registry: kopf.OperatorRegistry, kind: str, selector: tuple[str, str | None, str], wake: Wake
) -> None:
    @kopf.index(*kopf_selector(selector), id=kind, registry=registry)
    def index(body: kopf.Body, **_: Any) -> dict[PoolKey, Owned]:
        key = pool_key(body)
        return {key: owned(body, kind)} if key is not None else {}

    @kopf.on.event(*kopf_selector(selector), id=f"{kind}-changed", registry=registry)
    def changed(body: kopf.Body, **_: Any) -> None:
        if key := pool_key(body):
            wake(key)


def _policies(registry: kopf.OperatorRegistry, wake: Callable[[Ref], None], known: Known) -> None:
    @kopf.index(GROUP, VERSION, "routingpolicies", id="policies", registry=registry)
    def index(body: kopf.Body, **_: Any) -> dict[Ref, PolicyRecord]:
        record = policy_record(body, known)
        return {record.ref: record}

    @kopf.on.event(GROUP, VERSION, "routingpolicies", id="policy", registry=registry)
    def changed(body: kopf.Body, **_: Any) -> None:
        wake(Ref("RoutingPolicy", body["metadata"]["namespace"], body["metadata"]["name"]))
