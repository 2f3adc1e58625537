"""How far a pod is on its way to serve, by its own status. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from shunter_api.status import Starting, StartingPhase
from shunter_operator.names import ENGINE_CONTAINER
from shunter_operator.values import Pod
from shunter_operator.weights import FETCH_CONTAINER

# The least far first.
STAGES: tuple[StartingPhase, ...] = ("Scheduling", "PullingImage", "Downloading", "Loading")
_DOES: Mapping[StartingPhase, str] = {
    "Scheduling": "without a node",
    "PullingImage": "pulling images",
    "Downloading": "downloading weights",
    "Loading": "loading weights",
}

Body = Mapping[str, Any]


def stage_of(body: Body) -> tuple[StartingPhase, object]:
    """The stage of a pod that is not ready, and since when, as Kubernetes writes it.

    `PullingImage` is all that a node does before a container runs: volumes, images, Secrets.
    """
    status = body.get("status") or {}
    if not (body.get("spec") or {}).get("nodeName"):
        return "Scheduling", body["metadata"].get("creationTimestamp")
    fetch = fetch_container(status)
    state = fetch.get("state") or {}
    if running := state.get("running"):
        # Across its tries: the first began when the pod had its node and its volumes.
        again = fetch.get("restartCount", 0) > 0
        return "Downloading", status.get("startTime") if again else running.get("startedAt")
    failed = (state.get("terminated") or {}).get("exitCode", 0) != 0
    if failed or (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        return "Downloading", status.get("startTime")
    engine = container(status.get("containerStatuses"), ENGINE_CONTAINER).get("state") or {}
    if running := engine.get("running"):
        return "Loading", running.get("startedAt")
    if engine.get("terminated") or (engine.get("waiting") or {}).get("reason") == (
        "CrashLoopBackOff"
    ):
        return "Loading", status.get("startTime")
    return "PullingImage", status.get("startTime")


def fetch_container(status: Body) -> Body:
    """The status of the container that fetches weights; empty where there is none."""
    return container(status.get("initContainerStatuses"), FETCH_CONTAINER)


def container(statuses: Any, name: str) -> Body:
    return next((s for s in statuses or () if s.get("name") == name), {})


def starting(pods: Iterable[Pod]) -> tuple[Starting, ...]:
    """Pods that are on their way, by how far they are, the least far first."""
    found: list[Starting] = []
    on_the_way = [p for p in pods if not p.ready and not p.deleting]
    for stage in STAGES:
        there = [p for p in on_the_way if _stage(p) == stage]
        if there:
            since = min((p.stage_since for p in there if p.stage_since), default=None)
            found.append(Starting(phase=stage, replicas=len(there), since=since))
    return tuple(found)


def starting_text(found: Iterable[Starting]) -> str:
    """To follow a sentence: `; 2 downloading weights since 12:00:05, 1 loading weights`."""
    said = [
        f"{s.replicas} {_DOES[s.phase]}{f' since {s.since:%H:%M:%S}' if s.since else ''}"
        for s in found
    ]
    return f"; {', '.join(said)}" if said else ""


def _stage(pod: Pod) -> StartingPhase:
    return pod.stage if pod.scheduled else "Scheduling"
