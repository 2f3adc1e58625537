"""Pod security `restricted`, as the Pod Security Standards define it for Linux pods.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator, Mapping
from typing import Any

Spec = Mapping[str, Any]
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image",
     "persistentVolumeClaim", "projected", "secret"}
)  # fmt: skip
_PROFILES = frozenset({"RuntimeDefault", "Localhost"})
_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")


def violations(pod: Spec) -> list[str]:
    """What a pod's `spec` does that `restricted` forbids; each names its place."""
    return [*_of_pod(pod), *(v for c in _containers(pod) for v in _of_container(pod, c))]


def _containers(pod: Spec) -> Iterator[Spec]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(kind) or ()


def _of_pod(pod: Spec) -> Iterator[str]:
    for name in _HOST_FIELDS:
        if pod.get(name):
            yield f"{name} is set"
    for volume in pod.get("volumes") or ():
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is of type {kind}"
    if (pod.get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def _of_container(pod: Spec, container: Spec) -> Iterator[str]:
    name = container["name"]
    shared, own = pod.get("securityContext") or {}, container.get("securityContext") or {}
    effective = {**shared, **own}
    if effective.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot is not true"
    if effective.get("runAsUser") == 0:
        yield f"{name}: runAsUser is 0"
    if (effective.get("seccompProfile") or {}).get("type") not in _PROFILES:
        yield f"{name}: seccompProfile is not RuntimeDefault or Localhost"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield f"{name}: privileged"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{name}: capabilities do not drop ALL"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount is not Default"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"{name}: hostPort {port['hostPort']}"
