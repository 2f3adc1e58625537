"""The judge of the rendered pods sees each thing that `restricted` forbids."""

from copy import deepcopy
from typing import Any

import pytest

from pod_security import violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "c",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "ports": [{"containerPort": 80}],
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}],
}


def test_a_restricted_pod_passes() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("hostNetwork", True, "hostNetwork"),
        ("volumes.0", {"name": "v", "hostPath": {"path": "/"}}, "hostPath"),
        ("securityContext.runAsNonRoot", False, "runAsNonRoot"),
        ("securityContext.runAsUser", 0, "runAsUser is 0"),
        ("securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile"),
        ("securityContext.sysctls", [{"name": "a", "value": "1"}], "sysctls"),
        ("containers.0.securityContext.runAsNonRoot", False, "runAsNonRoot"),
        ("containers.0.securityContext.allowPrivilegeEscalation", None, "Escalation"),
        ("containers.0.securityContext.privileged", True, "privileged"),
        ("containers.0.securityContext.capabilities", {"drop": ["KILL"]}, "drop ALL"),
        ("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"], "are added"),
        ("containers.0.securityContext.procMount", "Unmasked", "procMount"),
        ("containers.0.ports.0.hostPort", 80, "hostPort"),
        ("initContainers", [{"name": "i"}], "i: allowPrivilegeEscalation"),
    ],
)
def test_each_violation_is_named(path: str, value: object, said: str) -> None:
    pod = deepcopy(GOOD)
    at: Any = pod
    *parents, last = path.split(".")
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    assert any(said in violation for violation in violations(pod)), violations(pod)
