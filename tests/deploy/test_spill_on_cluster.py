"""A pool whose preferred GPUs are taken: it spills over, and comes back with its streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster_load import (
    WORKERS,
    Gateway,
    Stream,
    load,
    ordered_moves,
    sources,
    undisturbed,
)
from helm_release import IMAGE, REAL_NODE, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SETTLED_S = 150.0
POOL: dict[str, Any] = {
    "apiVersion": "shunter.dev/v1alpha1",
    "kind": "ModelPool",
    "metadata": {"name": "spill"},
    "spec": {
        "model": {"source": "sim://llama-3.1-8b", "contextLength": 16384},
        "engine": {"type": "simulated", "args": ["--speed=3"]},  # an L4 takes its time
        "profiles": [
            {
                "name": "h100",
                "accelerator": "h100-sxm-80gb",
                "nodeSelector": {"node-pool": "h100"},
                "resources": {"limits": {"nvidia.com/gpu": 8}},
                "replicas": {"min": 1, "max": 1},
            },
            {
                "name": "l4",
                "accelerator": "l4-24gb",
                "nodeSelector": {"node-pool": "l4"},
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "replicas": {"min": 0, "max": 1},
            },
        ],
        "scaling": {"spillAfter": "2s", "returnAfter": "2s"},
        "migration": {"drainTimeout": "60s"},
    },
}
BLOCKER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "blocker"},
    "spec": {
        "nodeSelector": {REAL_NODE: "yes", "node-pool": "h100"},
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "sleeper",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
            }
        ],
    },
}


@contextmanager
def applied(release: Installed, *objects: dict[str, Any]) -> Iterator[None]:
    try:
        release.apply(*objects)
        yield
    finally:
        names = [f"{o['kind'].lower()}/{o['metadata']['name']}" for o in objects]
        release.kubectl("delete", *names, "--ignore-not-found", "--timeout=120s")


def profiles(release: Installed) -> dict[str, int]:
    """Ready instances by profile, of a pool that has settled."""
    if release.condition("spill", "Progressing").get("status") != "False":
        return {}
    pods = release.pods("shunter.dev/pool=spill")
    names = [pod["metadata"]["labels"]["shunter.dev/profile"] for pod in pods]
    return {name: names.count(name) for name in names}


def test_streams_come_back_to_the_preferred_gpus(release: Installed) -> None:
    with applied(release, BLOCKER):
        wait_for("a GPU is taken", lambda: "blocker" in release.names("pods"), 30.0)
        release.kubectl("wait", "--for=condition=Ready", "pod/blocker", "--timeout=60s")
        with applied(release, POOL):
            spilled = wait_for("it spills", lambda: _spilled(release), SETTLED_S)
            assert (spilled["reason"], "1 on l4" in spilled["message"]) == ("InsufficientGPU", True)
            wait_for("the stand-in serves", lambda: _serves(release, "l4"), SETTLED_S)
            wait_for("the mix is told", lambda: _mix(release) == "1xl4-24gb", SETTLED_S)
            gateway = Gateway.service(release)
            expected = undisturbed(gateway, "spill")
            with load(gateway, expected, "spill") as running:
                (stand_in,) = release.pods("shunter.dev/pool=spill")
                moved = running.running()
                release.kubectl("delete", "pod", "blocker")
                wait_for("it returns", lambda: profiles(release) == {"h100": 1}, SETTLED_S)
            _check_moves(release, running.streams, stand_in)
            assert moved
            assert release.condition("spill", "SpilledOver")["status"] == "False"
            assert {"SpilledOver", "Returned", "Draining"} <= _told(release)


def _mix(release: Installed) -> str | None:
    mix: str | None = release.get("modelpool", "spill")["status"].get("gpuMix")
    return mix


def _spilled(release: Installed) -> dict[str, str] | None:
    found = release.condition("spill", "SpilledOver")
    return found if found.get("status") == "True" else None


def _serves(release: Installed, profile: str) -> bool:
    return bool(release.pods(f"shunter.dev/pool=spill,shunter.dev/profile={profile}"))


def _check_moves(release: Installed, streams: list[Stream], stand_in: dict[str, Any]) -> None:
    """The stand-in's last requests were taken to the preferred instance, and the moves say so."""
    came = stand_in["metadata"]["name"]
    placed = [s for s in streams if s.decision == f"spill/{came}"]
    moves = ordered_moves(release, placed[-2 * WORKERS :])
    assert {d.winner.split("-")[1] for d in moves} == {"h100"}
    assert sources(moves) == {came}


def _told(release: Installed) -> set[str]:
    about = "--field-selector=involvedObject.name=spill"
    return {event["reason"] for event in release.get("events", about)["items"]}
