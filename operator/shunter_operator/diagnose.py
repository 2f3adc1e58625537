"""Why a pod does not serve: its root cause in one word and one sentence. Pure.

A pod's own status says it all, so that no Events need to be read: the scheduler's verdict is in the
condition PodScheduled, and the engine's last words are in its termination message (the container is
built with `terminationMessagePolicy: FallbackToLogsOnError`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shunter_operator.values import Manifest, Pod, Startup, Termination
from shunter_operator.weights import fetch_failure

MAX_QUOTED = 400
# A kubelet before 1.21 acts on a failed startup probe when it next looks at the pod, in up to 90 s.
STOPPING_S = 120.0
_GPU = re.compile(r"Insufficient (\S*(?:gpu|mig-)\S*)", re.IGNORECASE)
_TAINT = re.compile(r"had (?:untolerated )?taints? (\{[^}]*\})")
_SELECTOR = re.compile(
    r"didn't match (?:node selector|Pod's node affinity|pod's node affinity)", re.IGNORECASE
)
_VOLUME = re.compile(
    r"unbound immediate PersistentVolumeClaims|volume node affinity conflict"
    r"|available persistent volumes to bind"
)
_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
    }
)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|OOM|No available memory for the cache blocks"
    r"|larger than the maximum number of tokens that can be stored in KV cache|MemoryError",
)
_UNAUTHORIZED = re.compile(
    r"GatedRepoError|RepositoryNotFoundError|Invalid (?:user )?token|\b40[13] Client Error"
    r"|Access to model \S+ is restricted|(?:401|403) (?:Unauthorized|Forbidden)",
)
_BACKING_OFF = "CrashLoopBackOff"
_SIDES = "│┃║"
_STOPPED_BY_SIGNAL = frozenset({0, 137, 143})


@dataclass(frozen=True, slots=True)
class Cause:
    """`fatal`: it does not go away by waiting."""

    reason: str
    message: str
    fatal: bool = True


def cause_of(pod: Pod) -> Cause | None:
    """None where the pod serves, or is on its way without any trouble."""
    if pod.deleting or pod.ready:
        return None
    if pod.unschedulable_since is not None:
        return Cause(*unschedulable(pod.unschedulable_message), fatal=False)
    if pod.waiting_reason in _IMAGE:
        return Cause("ImagePullFailed", _joined(pod.waiting_reason, pod.waiting_message))
    if pod.waiting_reason in ("CreateContainerConfigError", "CreateContainerError"):
        return Cause("ContainerNotCreated", _joined(pod.waiting_reason, pod.waiting_message))
    if pod.fetch_ended is not None:
        failure = fetch_failure(pod.fetch_ended, running=pod.waiting_reason != _BACKING_OFF)
        if failure is not None:
            return Cause(*failure)
    if pod.terminated is not None:
        return _ended(pod.terminated, pod)
    return None


def unschedulable(message: str) -> tuple[str, str]:
    """Reason and sentence of the Kubernetes scheduler's verdict.

    Nodes that lack only a free GPU are the ones that matter: where there is one, waiting or more
    nodes help. Otherwise a taint on a node that would suit, otherwise nothing suits at all.
    """
    said = message.strip().removesuffix(".")  # more may follow it
    if gpu := _GPU.search(said):
        return "InsufficientGPU", f"no node has {gpu[1]} free: {said}"
    if "Insufficient " in said:
        return "InsufficientResources", f"no node has room: {said}"
    taints = [t for t in _TAINT.findall(said) if "node.kubernetes.io/" not in t]
    if taints:
        return "TaintNotTolerated", f"add a toleration for {taints[0]} to the profile: {said}"
    if _SELECTOR.search(said):
        return "NodeSelectorMatchesNothing", f"no node has the profile's labels: {said}"
    if "persistentvolumeclaim" in said:
        return "VolumeNotFound", said
    if _VOLUME.search(said):
        return "VolumeNotBound", f"no node can have the pod's volumes: {said}"
    return "Unschedulable", said or "no node takes the pod"


def refused(deployment: Manifest) -> Cause | None:
    """Why the API server refuses pods of a Deployment, where it does."""
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            said = condition.get("message", "")
            reason = "QuotaExceeded" if "exceeded quota" in said else "PodsRefused"
            return Cause(reason, said, fatal=False)
    return None


def worst(causes: Iterable[Cause | None]) -> Cause | None:
    """The one to tell first: what does not go away by waiting, then by reason."""
    found = [cause for cause in causes if cause is not None]
    return min(found, key=lambda c: (not c.fatal, c.reason), default=None)


def _ended(ended: Termination, pod: Pod) -> Cause:
    last = last_line(ended.message)
    if ended.reason == "OOMKilled" or _OUT_OF_MEMORY.search(ended.message):
        return Cause("EngineOOM", _joined("the engine ran out of memory", last))
    if _UNAUTHORIZED.search(ended.message):
        return Cause("WeightsUnauthorized", _joined("the model source refused the token", last))
    if _never_ready(ended, pod.startup):
        waited = f"the engine was not ready after {ended.ran_s:.0f} s and was stopped"
        return Cause("ProbeTimeoutWhileLoading", _joined(waited, last))
    told = f"the engine ended with exit code {ended.exit_code}, {pod.restarts} restarts"
    return Cause("EngineCrashLoop", _joined(told, last))


def _never_ready(ended: Termination, startup: Startup | None) -> bool:
    """Stopped when its time to start was over: one that has served runs longer, as a rule."""
    if startup is None or ended.exit_code not in _STOPPED_BY_SIGNAL:
        return False
    return startup.budget_s <= ended.ran_s <= startup.budget_s + startup.grace_s + STOPPING_S


def last_line(text: str) -> str:
    """The last one with words in it, or all that the last frame around lines holds: some programs,
    our own among them, draw one around an error."""
    lines = [line.strip() for line in text.splitlines()]
    while lines and not any(map(str.isalnum, lines[-1])):
        lines.pop()
    told: list[str] = []
    while lines and (not told or (told[0][0] in _SIDES and lines[-1][:1] in _SIDES)):
        told.insert(0, lines.pop())
    return " ".join(line.strip(_SIDES + " ") for line in told)[:MAX_QUOTED]


def _joined(what: str, detail: str) -> str:
    return f"{what}: {detail}" if detail else what
