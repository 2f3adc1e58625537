"""From a pool to the objects that the API server is asked for. Pure."""

from dataclasses import dataclass
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_operator import engine_files, weights
from shunter_operator.containers import STARTUP_BUDGET_S, engine_container
from shunter_operator.merge import digest, sealed, strategic_merge
from shunter_operator.names import (
    ANNOTATION_RECLAIMED,
    ANNOTATION_SPILLED,
    ANNOTATION_SURGE,
    ANNOTATION_TEMPLATE,
    ENGINE_PORT_NAME,
    GROUP,
    LABEL_BUSY,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    LABEL_PROFILE,
    LABEL_REVISION,
    LABEL_ROLE,
    MANAGED_BY,
    READINESS_GATE,
    VERSION,
    Ref,
    deployment_name,
    service_name,
)
from shunter_operator.priorities import priority_class
from shunter_operator.reclaimed import reclaim_text
from shunter_operator.revision import revision_label
from shunter_operator.values import Desired, Environment, Manifest

GRACE_MARGIN_S = 10
SETTLE_S = 5
USER_ID = 65532


def manifests_of(desired: Desired, environment: Environment) -> list[Manifest]:
    """What a pool has beside its Deployments."""
    return [
        sealed(_service_account(desired)),
        sealed(_service(desired)),
        sealed(_disruption_budget(desired, environment)),
        *([sealed(_files(desired))] if desired.pool.spec.engine.files else []),
    ]


@dataclass(frozen=True, slots=True)
class Scale:
    """`spilled` of the `replicas` stand in for profiles that are preferred, `surge` of them replace
    pods whose node is about to go. `missing` is how many may be missing while a rollout has no room
    for a new pod beside the old ones; 0: a new one serves before an old one goes."""

    replicas: int
    spilled: int = 0
    surge: int = 0
    missing: int = 0


def deployment(desired: Desired, profile: Profile, template: Manifest, scale: Scale) -> Manifest:
    """`template` is what `pod_template` makes."""
    pool = desired.pool
    labels = {LABEL_POOL: pool.name, LABEL_PROFILE: profile.name}
    manifest = _object(desired, "apps/v1", "Deployment", deployment_name(pool.name, profile.name))
    manifest["metadata"]["labels"] |= labels
    if profile.role != "Any":
        manifest["metadata"]["labels"][LABEL_ROLE] = profile.role
    manifest["metadata"]["annotations"] = {ANNOTATION_SPILLED: str(scale.spilled)}
    reclaim = desired.reclaims.get(profile.name)
    if reclaim is not None and reclaim.taken:
        manifest["metadata"]["annotations"][ANNOTATION_RECLAIMED] = reclaim_text(reclaim)
    if scale.surge:
        manifest["metadata"]["annotations"][ANNOTATION_SURGE] = str(scale.surge)
    manifest["spec"] = {
        "replicas": scale.replicas,
        "revisionHistoryLimit": 2,
        # A rollout goes on once the scheduler has heard of the new pod, and so have we.
        "minReadySeconds": SETTLE_S,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": 0 if scale.missing else 1,
                "maxUnavailable": scale.missing,
            },
        },
        "progressDeadlineSeconds": STARTUP_BUDGET_S + 600,
        "selector": {"matchLabels": labels},
        "template": template,
    }
    return sealed(manifest)


def ref_of(manifest: Manifest) -> Ref:
    metadata = manifest["metadata"]
    return Ref(manifest["kind"], metadata["namespace"], metadata["name"])


def _object(desired: Desired, api_version: str, kind: str, name: str) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": desired.key.namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_POOL: desired.key.name},
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": "ModelPool",
                    "name": desired.key.name,
                    "uid": desired.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def _service_account(desired: Desired) -> Manifest:
    manifest = _object(desired, "v1", "ServiceAccount", service_name(desired.key.name))
    return {**manifest, "automountServiceAccountToken": False}


def _service(desired: Desired) -> Manifest:
    manifest = _object(desired, "v1", "Service", service_name(desired.key.name))
    manifest["spec"] = {
        "selector": {LABEL_POOL: desired.key.name},
        "ports": [
            {
                "name": ENGINE_PORT_NAME,
                "port": 80,
                "targetPort": ENGINE_PORT_NAME,
                "protocol": "TCP",
            }
        ],
    }
    return manifest


def _files(desired: Desired) -> Manifest:
    name = engine_files.config_map_name(desired.pool)
    manifest = _object(desired, "v1", "ConfigMap", name)
    return {**manifest, "immutable": True, "data": engine_files.data_of(desired.pool)}


def _disruption_budget(desired: Desired, environment: Environment) -> Manifest:
    name = service_name(desired.key.name)
    manifest = _object(desired, environment.pdb_api_version, "PodDisruptionBudget", name)
    labels = {LABEL_POOL: desired.key.name}
    spec: dict[str, Any] = {"maxUnavailable": 1}
    if environment.watches_nodes:
        # Pods that serve are not evicted: the operator empties them and takes the label off.
        spec, labels[LABEL_BUSY] = {"maxUnavailable": 0}, "true"
        if environment.unhealthy_eviction:
            spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    manifest["spec"] = {**spec, "selector": {"matchLabels": labels}}
    return manifest


def pod_template(desired: Desired, profile: Profile, environment: Environment) -> Manifest:
    """Its pods say by the annotation `ANNOTATION_TEMPLATE` what they were made of."""
    pool = desired.pool
    override = pool.spec.pod_template
    labels = {
        **override.metadata.labels,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_POOL: pool.name,
        LABEL_PROFILE: profile.name,
        LABEL_REVISION: revision_label(pool),
    }
    spec = strategic_merge(_pod_spec(pool, profile, environment), override.spec)
    annotations = dict(override.metadata.annotations)
    made = {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}
    annotations[ANNOTATION_TEMPLATE] = digest(made)
    return made


def template_digest(template: Manifest) -> str:
    return str(template["metadata"]["annotations"][ANNOTATION_TEMPLATE])


def _pod_spec(pool: ModelPool, profile: Profile, environment: Environment) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "serviceAccountName": service_name(pool.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace_s(pool),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [engine_container(pool, profile, environment)],
        "volumes": [
            {"name": "cache", **_EMPTY},
            {"name": "tmp", **_EMPTY},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *weights.volumes(pool),
            *engine_files.volumes(pool),
        ],
    }
    if fetching := weights.init_containers(pool, environment):
        spec["initContainers"] = fetching
    if profile.node_selector:
        spec["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        dump = [t.model_dump(by_alias=True, exclude_none=True) for t in profile.tolerations]
        spec["tolerations"] = dump
    if name := priority_class(pool, environment):
        spec["priorityClassName"] = name
    if not environment.deletion_cost:
        spec["readinessGates"] = [{"conditionType": READINESS_GATE}]
    return spec


_EMPTY: dict[str, Any] = {"emptyDir": {}}


def _grace_s(pool: ModelPool) -> int:
    return int(pool.migration.drain_timeout_s) + GRACE_MARGIN_S
