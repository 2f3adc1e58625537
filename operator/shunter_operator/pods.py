"""A pod of the API server to a `Pod`: the fields that decisions need, and no others."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shunter_operator.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAIN_REASON,
    ANNOTATION_DRAIN_SINCE,
    ANNOTATION_LEAVE_SINCE,
    ANNOTATION_TEMPLATE,
    DRAINED_DELETION_COST,
    ENGINE_CONTAINER,
    LABEL_BUSY,
    LABEL_POOL,
    LABEL_PROFILE,
    LABEL_ROLE,
    READINESS_GATE,
)
from shunter_operator.stages import fetch_container, stage_of
from shunter_operator.values import Pod, Startup, Termination

Body = Mapping[str, Any]


def pod_of(body: Body) -> Pod:
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    unschedulable = scheduled.get("status") == "False" and bool(scheduled.get("message"))
    ready = conditions.get("Ready", {})
    container = _engine(status.get("containerStatuses") or ())
    waiting = _init_waiting(status) or (container.get("state") or {}).get("waiting") or {}
    spec = body.get("spec") or {}
    stage, stage_since = stage_of(body)
    gates = spec.get("readinessGates") or ()
    return Pod(
        name=metadata["name"],
        namespace=metadata["namespace"],
        pool=labels.get(LABEL_POOL, ""),
        profile=labels.get(LABEL_PROFILE, ""),
        uid=metadata.get("uid", ""),
        created_at=moment(metadata.get("creationTimestamp")),
        deleting="deletionTimestamp" in metadata,
        scheduled=bool(spec.get("nodeName")),
        unschedulable_since=moment(scheduled.get("lastTransitionTime")) if unschedulable else None,
        unschedulable_message=scheduled.get("message", "") if unschedulable else "",
        ready_since=moment(ready.get("lastTransitionTime")) if _true(ready) else None,
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        terminated=_termination(container),
        restarts=container.get("restartCount", 0),
        drain_since=moment(annotations.get(ANNOTATION_DRAIN_SINCE)),
        drained=annotations.get(ANNOTATION_DELETION_COST) == DRAINED_DELETION_COST,
        drain_reason=annotations.get(ANNOTATION_DRAIN_REASON, ""),
        leave_since=moment(annotations.get(ANNOTATION_LEAVE_SINCE)),
        busy=labels.get(LABEL_BUSY) == "true",
        role=labels.get(LABEL_ROLE, ""),
        node=(body.get("spec") or {}).get("nodeName") or "",
        template=annotations.get(ANNOTATION_TEMPLATE, ""),
        gated=_true(conditions.get(READINESS_GATE, {})) if _has_gate(gates) else None,
        startup=_startup(spec),
        stage=stage,
        stage_since=moment(stage_since),
        fetch_ended=_termination(fetch_container(status)),
    )


def finished(body: Body) -> bool:
    """Its containers have ended for good, as those of a node that was shut down. Controllers no
    longer count such a pod."""
    return (body.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def moment(text: object) -> datetime | None:
    """A time as Kubernetes writes it; None where it is absent or not one."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def time_text(when: datetime) -> str:
    """A time as Kubernetes writes it, to the second."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _true(condition: Body) -> bool:
    return condition.get("status") == "True"


def _has_gate(gates: Any) -> bool:
    return any(gate.get("conditionType") == READINESS_GATE for gate in gates)


def _engine(statuses: Any) -> Body:
    return next((s for s in statuses if s.get("name") == ENGINE_CONTAINER), {})


def _startup(spec: Body) -> Startup | None:
    """The kubelet looks at once, then every period; what is absent has Kubernetes' default."""
    probe = _engine(spec.get("containers") or ()).get("startupProbe")
    if probe is None:
        return None
    looks = probe.get("failureThreshold", 3)
    budget_s = probe.get("initialDelaySeconds", 0) + (looks - 1) * probe.get("periodSeconds", 10)
    return Startup(budget_s, spec.get("terminationGracePeriodSeconds", 30))


def _init_waiting(status: Body) -> Body:
    """An init container that cannot start holds the engine back."""
    for one in status.get("initContainerStatuses") or ():
        waiting = (one.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") != "PodInitializing":
            return dict(waiting)
    return {}


def _termination(container: Body) -> Termination | None:
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if ended := state.get("terminated"):
            began, end = moment(ended.get("startedAt")), moment(ended.get("finishedAt"))
            return Termination(
                reason=ended.get("reason", ""),
                exit_code=ended.get("exitCode", 0),
                message=ended.get("message", ""),
                ran_s=(end - began).total_seconds() if began and end else 0.0,
            )
    return None
