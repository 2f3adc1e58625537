"""A cluster-wide release that looks after two namespaces, its own and another."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster_load import chat
from helm_chart import CHART
from helm_release import (
    READY_S,
    REAL_NODE,
    Installed,
    Machine,
    image_settings,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def pool(name: str, model: str) -> dict[str, Any]:
    profile = {
        "name": "any",
        "accelerator": "l4-24gb",
        "nodeSelector": {REAL_NODE: "yes"},
        "replicas": {"min": 1, "max": 1},
    }
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "sim://llama-3.1-8b", "name": model},
            "engine": {"type": "simulated"},
            "profiles": [profile],
            "migration": {"drainTimeout": "5s"},
        },
    }


@pytest.fixture
def both(cluster: Machine) -> Iterator[tuple[Installed, Installed]]:
    """The release, and a namespace beside it. The cluster may be shared, so that the processes
    are told which namespaces to look at, and the job that looks at all of them is left out."""
    own, other = (Installed(cluster, f"shunter-e2e-{uuid.uuid4().hex[:8]}") for _ in range(2))
    watched = ",".join(f"--namespace={one.namespace}" for one in (own, other))
    values = (
        *image_settings(), "scope=cluster", "hooks.enabled=false", "webhooks.enabled=false",
        "gateway.replicas=1", "scheduler.replicas=1", "operator.replicas=1",
        f"nodeSelector.{REAL_NODE}=yes",
        f"operator.extraArgs={{{watched}}}", f"scheduler.extraArgs={{{watched}}}",
    )  # fmt: skip
    try:
        other.kubectl("create", "namespace", other.namespace)
        own.helm(
            "install", own.namespace, str(CHART), "--create-namespace", "--skip-crds", "--wait",
            "--timeout=180s", *(f"--set={value}" for value in values),
        )  # fmt: skip
        yield own, other
    finally:
        for one in (other, own):
            one.kubectl(
                "delete", "modelpools.shunter.dev", "--all", "--timeout=90s", "--ignore-not-found"
            )
        own.helm("uninstall", own.namespace, "--ignore-not-found", "--timeout=120s")
        for one in (other, own):
            gone = ("--ignore-not-found", "--wait=false")
            one.kubectl("delete", "namespace", one.namespace, *gone)


def test_pools_of_two_namespaces_are_served_as_one_cell(
    both: tuple[Installed, Installed],
) -> None:
    own, other = both
    own.apply(pool("first", "near"))
    other.apply(pool("second", "far"))
    _until_ready(own, "first")
    _until_ready(other, "second")
    assert _decision(own, "near").startswith("first/first-any")
    assert _decision(own, "far").startswith("second/second-any")
    other.apply(pool("third", "near"))
    wait_for(
        "a model name belongs to one pool of the cell",
        lambda: other.condition("third", "Degraded").get("reason") == "ConflictingModel",
        60.0,
    )
    assert "first" in other.condition("third", "Degraded")["message"]


def _until_ready(release: Installed, name: str) -> None:
    def ready() -> bool:
        return release.condition(name, "Ready").get("status") == "True"

    wait_for(f"{name} serves", ready, READY_S)


def _decision(release: Installed, model: str) -> str:
    """Where a request ran. The gateway may not know the model at once."""
    key = release.key()

    def answered() -> str:
        answer = release.ask(chat(8, model=model), key)
        return answer.decision if answer.status == 200 else ""

    return wait_for(f"{model} answers", answered, 30.0)
