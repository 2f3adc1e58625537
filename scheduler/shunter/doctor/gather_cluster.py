"""The facts of a release on a cluster, as seen from a laptop or from one of its pods."""

import base64
import binascii
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from shunter.config import rules_path
from shunter.doctor.facts import (
    ClusterFacts,
    Facts,
    ModelFacts,
    Object,
    Page,
    Place,
    SchedulerFacts,
    Server,
    ServiceFacts,
    Unread,
)
from shunter.doctor.reach import Reach, Target, ThroughApiServer, direct
from shunter.doctor.read_cluster import (
    DATE_RESOLUTION_S,
    Asking,
    arguments_of,
    engine_pods,
    find_place,
    gateway_service,
    read_cluster,
    scheduler_pods,
    time_of,
)
from shunter.doctor.read_service import (
    MAX_ENGINES,
    EnginePlace,
    model_of,
    read_engines,
    read_scheduler,
    read_tokenizers,
)
from shunter.release import version_of
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.problems import ConfigurationError
from shunter_runtime.kube_access import KubeAccess
from shunter_runtime.kube_api import KubeApi, Refused, Unreachable, kube_api
from shunter_runtime.tls import TlsFiles
from shunter_scheduler.sources.kubernetes_objects import read_pod

GRPC_PORT = "50051"
# The name that gateways call schedulers by, so that certificates have it.
SCHEDULERS = "shunter-schedulers"


@dataclass(frozen=True, slots=True)
class Cluster:
    """`inside`: this process is a pod of the cluster and calls others directly."""

    access: KubeAccess
    version: str
    namespace: str = ""
    inside: bool = False
    tls: TlsFiles | None = None


async def gather(cluster: Cluster) -> Facts:
    """Raises `Refused` where the API server does not know the user, another `KubeError` where it
    does not answer, and `TlsError`."""
    rules = yaml.safe_load(rules_path().read_text())
    async with kube_api(cluster.access) as api, direct() as http:
        server = await read_server(api, cluster.access.server)
        place = await find_place(api, cluster.namespace)
        reach: Reach = http if cluster.inside else ThroughApiServer(api)
        user = account_of(cluster.access.authorization()) if cluster.inside else ""
        asking = Asking(api, reach, rules, cluster.version, user)
        facts = await read_cluster(asking, place, server)
        return Facts(await _service(asking, cluster, facts), facts)


async def read_server(api: KubeApi, address: str) -> Server:
    """Its clock is read in the middle of the answer's way, to half a second at best."""
    asked_at = time.time()
    answer = await api.ask("GET", "/version")
    answered_at = time.time()
    if answer.status != 200:
        raise Refused(answer.status, answer.body[:200].decode("utf-8", "replace").strip())
    try:
        body = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unreachable(f"/version: {error}") from error
    now = time_of(answer)
    return Server(
        address=address,
        version=version_of(body),
        text=body.get("gitVersion", "of unknown version"),
        ahead_s=now.timestamp() - (asked_at + answered_at) / 2 if now else None,
        within_s=(DATE_RESOLUTION_S + answered_at - asked_at) / 2,
    )


def account_of(authorization: str) -> str:
    """The subject of a service account's token; empty where it is none."""
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        return str(claims.get("sub", ""))
    except (binascii.Error, ValueError, AttributeError):
        return ""


async def _service(asking: Asking, cluster: Cluster, facts: ClusterFacts) -> ServiceFacts:
    models = _models(facts.pools)
    pods = await engine_pods(asking.api, facts.place)
    places = [] if isinstance(pods, Unread) else _places(pods, models)
    return ServiceFacts(
        gateway=await _gateway(asking, facts),
        scheduler=await _scheduler(asking.api, cluster, facts.place),
        engines=pods
        if isinstance(pods, Unread)
        else await read_engines(places[:MAX_ENGINES], asking.reach),
        unasked=max(0, len(places) - MAX_ENGINES),
        # Others would be fetched to this machine; gateways compare them where they are.
        tokenizers=await read_tokenizers(
            model.source for model in models.values() if model.source.startswith("sim://")
        ),
    )


async def _gateway(asking: Asking, facts: ClusterFacts) -> Page | Unread:
    service = await gateway_service(asking.api, facts.place)
    if isinstance(service, Unread):
        return service
    port = next((p["port"] for p in service["spec"]["ports"] if p.get("name") == "http"), 80)
    name, namespace = service["metadata"]["name"], facts.place.namespace
    tls = not isinstance(facts.deployments, Unread) and _serves_tls(facts.deployments.get(name))
    host = f"{name}.{namespace}.svc:{port}"
    target = Target(host, "services", namespace, name, str(port), tls)
    return await asking.reach.call(target, "/ready")


def _serves_tls(deployment: Object | None) -> bool:
    if deployment is None:
        return False
    return any(arg.startswith("--tls-cert=") for arg in arguments_of(deployment, "gateway"))


async def _scheduler(api: KubeApi, cluster: Cluster, place: Place) -> SchedulerFacts | Unread:
    """The one that leads; where none does, the last that was asked."""
    if not cluster.inside:
        return Unread(
            "gRPC is not passed on by the API server: `kubectl exec deploy/shunter-operator -- "
            "shunter doctor` asks from inside"
        )
    pods = await scheduler_pods(api, place)
    if isinstance(pods, Unread):
        return pods
    found: SchedulerFacts | Unread = Unread("there is no scheduler pod")
    for pod in pods:
        host = (pod.get("status") or {}).get("podIP") or ""
        host = f"[{host}]" if ":" in host else host
        found = await read_scheduler(f"{host}:{GRPC_PORT}", cluster.tls, SCHEDULERS)
        if isinstance(found, SchedulerFacts) and found.leads:
            break
    return found


def _models(pools: Sequence[Object] | Unread) -> dict[str, ModelFacts]:
    """By NAMESPACE/NAME."""
    found: dict[str, ModelFacts] = {}
    for body in () if isinstance(pools, Unread) else pools:
        try:
            pool = parse_object(body)
        except ConfigurationError:  # another check tells of it
            continue
        assert isinstance(pool, ModelPool)
        found[pool.metadata.key] = model_of(pool)
    return found


def _places(pods: Sequence[Object], models: Mapping[str, ModelFacts]) -> list[EnginePlace]:
    """Of pods that are to serve; why others are not ready is in their pools' status."""
    places = []
    for pod in map(read_pod, pods):
        if pod.ready and pod.address and not pod.terminating:
            port = pod.address.rpartition(":")[2]
            target = Target(pod.address, "pods", pod.namespace, pod.name, port)
            model = models.get(f"{pod.namespace}/{pod.pool}")
            places.append(EnginePlace(pod.name, pod.pool, target, model))
    return places
