"""Reads what the API server knows. What may not be read, or is not answered, says so."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import msgspec

from shunter.doctor.facts import (
    PARTS,
    ClusterFacts,
    LeaseFacts,
    Object,
    Part,
    Place,
    Right,
    Rights,
    SchedulerPages,
    Server,
    Unread,
)
from shunter.doctor.needs import Rules, needs, review
from shunter.doctor.reach import Reach, Target
from shunter.doctor.read_admission import trial, webhooks
from shunter.doctor.read_objects import in_short, listed, read
from shunter.release import DEFINITIONS, definitions
from shunter_operator.names import GROUP, VERSION
from shunter_operator.pods import moment
from shunter_runtime.kube_api import Answer, KubeApi, KubeError, Refused
from shunter_scheduler.sources.kubernetes_objects import ENGINE_PODS

AT_ONCE = 8
METRICS_PORT = "9090"
DATE_RESOLUTION_S = 1.0  # of the header
COMPONENT = "app.kubernetes.io/component"
RELEASE_LABELS = "app.kubernetes.io/name=shunter,app.kubernetes.io/part-of=shunter"
# By its API group, and by the status that it writes by default.
ADDING_NODES: Mapping[str, str] = {
    "Karpenter": "/apis/karpenter.sh",
    "the cluster autoscaler": "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, of what. `user` is the account that this process runs as; empty: a person."""

    api: KubeApi
    reach: Reach
    rules: Rules
    version: str
    user: str = ""


async def read_cluster(asking: Asking, place: Place, server: Server) -> ClusterFacts:
    api, folder = asking.api, f"/apis/apps/v1/namespaces/{quote(place.namespace)}/deployments"
    pods, deployments, nodes, runtime_classes, pools = await asyncio.gather(
        scheduler_pods(api, place),
        listed(api, folder, {"labelSelector": RELEASE_LABELS}),
        listed(api, "/api/v1/nodes"),
        listed(api, "/apis/node.k8s.io/v1/runtimeclasses"),
        listed(api, _pools(place)),
    )
    return ClusterFacts(
        place=place,
        version=asking.version,
        server=server,
        definitions=await _definitions(api, server),
        rights={part: await _rights(asking, part, place) for part in PARTS},
        nodes=nodes,
        adds_nodes=await _adds_nodes(api),
        pools=pools,
        runtime_classes=runtime_classes
        if isinstance(runtime_classes, Unread)
        else frozenset(c["metadata"]["name"] for c in runtime_classes),
        deployments=deployments
        if isinstance(deployments, Unread)
        else {d["metadata"]["name"]: d for d in deployments},
        leases={part: await _lease(api, part, place) for part in PARTS},
        schedulers=pods if isinstance(pods, Unread) else await _pages(pods, asking.reach),
        webhooks=await webhooks(api, place),
        trial=await trial(api, place),
    )


async def find_place(api: KubeApi, namespace: str) -> Place:
    """The release in that namespace; without a name the context's own, or else the only one of the
    cluster. Where there is none, checks say so."""
    wanted = namespace or api.namespace
    path = f"/apis/apps/v1/namespaces/{quote(wanted)}/deployments"
    query = {"labelSelector": f"{RELEASE_LABELS},{COMPONENT}=operator"}
    found = await listed(api, path, query)
    if not found and not namespace:
        found = await listed(api, "/apis/apps/v1/deployments", query)
    if isinstance(found, Unread) or len(found) != 1:
        return Place(wanted, wide=True)
    given = dict(a.partition("=")[::2] for a in arguments_of(found[0], "operator"))
    return Place(
        found[0]["metadata"]["namespace"],
        wide="--namespace" not in given,
        webhooks=given.get("--webhooks", ""),
    )


def arguments_of(deployment: Object, container: str) -> list[str]:
    """Of the container of that name: others may have been put beside it."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    found = (c.get("args") or () for c in containers if c["name"] == container)
    return [str(argument) for arguments in found for argument in arguments]


async def scheduler_pods(api: KubeApi, place: Place) -> tuple[Object, ...] | Unread:
    path = f"/api/v1/namespaces/{quote(place.namespace)}/pods"
    pods = await listed(api, path, {"labelSelector": f"{RELEASE_LABELS},{COMPONENT}=scheduler"})
    if isinstance(pods, Unread):
        return pods
    return tuple(pod for pod in pods if "deletionTimestamp" not in pod["metadata"])


async def engine_pods(api: KubeApi, place: Place) -> tuple[Object, ...] | Unread:
    inside = "" if place.wide else f"/namespaces/{quote(place.namespace)}"
    return await listed(api, f"/api/v1{inside}/pods", {"labelSelector": ENGINE_PODS})


async def gateway_service(api: KubeApi, place: Place) -> Object | Unread:
    folder = f"/api/v1/namespaces/{quote(place.namespace)}/services"
    return await read(api.get(f"{folder}/shunter-gateway"))


def _pools(place: Place) -> str:
    inside = "" if place.wide else f"/namespaces/{quote(place.namespace)}"
    return f"/apis/{GROUP}/{VERSION}{inside}/modelpools"


async def _definitions(api: KubeApi, server: Server) -> Mapping[str, Object | None] | Unread:
    """By lists of one: the operator, who may be asking, may list them and not get one."""
    found: dict[str, Object | None] = {}
    for definition in definitions(server.version):
        name = definition["metadata"]["name"]
        one = await listed(api, DEFINITIONS, {"fieldSelector": f"metadata.name={name}"})
        if isinstance(one, Unread):
            return one
        found[name] = next(iter(one), None)
    return found


async def _adds_nodes(api: KubeApi) -> str:
    for name, path in ADDING_NODES.items():
        if not isinstance(await read(api.get(path)), Unread):
            return name
    return ""


async def _rights(asking: Asking, part: Part, place: Place) -> Rights | Unread:
    """Asked for the account of the process, by itself or by somebody who may ask for others."""
    account = f"system:serviceaccount:{place.namespace}:shunter-{part}"
    user = "" if asking.user == account else account
    wanted = needs(asking.rules, part, place)
    room = asyncio.Semaphore(AT_ONCE)

    async def refused(right: Right) -> bool:
        async with room:
            body = review(right, user)
            plural = f"{body['kind'].lower()}s"
            path = f"/apis/authorization.k8s.io/v1/{plural}"
            return not (await asking.api.create(path, dict(body)))["status"]["allowed"]

    answers = await read(_all(refused(right) for right in wanted))
    if isinstance(answers, Unread):
        return answers
    missing = tuple(r for r, no in zip(wanted, answers, strict=True) if no)
    return Rights(len(wanted), missing)


async def _all(calls: Iterable[Awaitable[bool]]) -> list[bool]:
    return list(await asyncio.gather(*calls))


async def _lease(api: KubeApi, part: Part, place: Place) -> LeaseFacts | Unread:
    """With the time of the answer: ages are by one clock. Nobody holds one that is not there."""
    folder = f"/apis/coordination.k8s.io/v1/namespaces/{quote(place.namespace)}/leases"
    try:
        answer = await api.ask("GET", f"{folder}/shunter-{part}")
    except KubeError as error:
        return Unread(str(error))
    body = answer.body.decode("utf-8", "replace")
    if answer.status not in (200, 404):
        return Unread(in_short(Refused(answer.status, body)))
    try:
        found = msgspec.json.decode(body) if answer.status == 200 else {}
        spec = found.get("spec") or {}
    except (msgspec.DecodeError, AttributeError) as error:
        return Unread(f"an answer that is no Lease: {error}")
    return LeaseFacts(
        holder=spec.get("holderIdentity") or "",
        renewed_at=moment(spec.get("renewTime")),
        duration_s=float(spec.get("leaseDurationSeconds") or 1),
        seen_at=time_of(answer),
    )


def time_of(answer: Answer) -> datetime | None:
    """When the server answered, by its clock: in the middle of the second that it names."""
    try:
        return parsedate_to_datetime(answer.date) + timedelta(seconds=DATE_RESOLUTION_S / 2)
    except ValueError:
        return None


async def _pages(pods: Iterable[Object], reach: Reach) -> Mapping[str, SchedulerPages]:
    found: dict[str, SchedulerPages] = {}
    for pod in pods:
        target = pod_target(pod, METRICS_PORT)
        found[pod["metadata"]["name"]] = SchedulerPages(
            await reach.call(target, "/health"), await reach.call(target, "/metrics")
        )
    return found


def pod_target(pod: Object, port: str) -> Target:
    metadata, host = pod["metadata"], (pod.get("status") or {}).get("podIP") or ""
    host = f"[{host}]" if ":" in host else host
    return Target(f"{host}:{port}", "pods", metadata["namespace"], metadata["name"], port)
