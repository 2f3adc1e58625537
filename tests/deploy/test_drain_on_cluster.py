"""`kubectl drain` of a node whose engine pod is busy: its requests move, then the pod goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster_load import Gateway, load, ordered_moves, sources, undisturbed
from helm_release import Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
POOL = "drained"
PODS = f"shunter.dev/pool={POOL}"
SETTLED_S = 150.0


def pool() -> dict[str, Any]:
    """A single instance on either of two nodes: the one that goes takes nobody along."""
    profile = {
        "name": "l4",
        "accelerator": "l4-24gb",
        "nodeSelector": {"node-pool": "l4"},
        "replicas": {"min": 1, "max": 1},
    }
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": POOL},
        "spec": {
            "model": {"source": "sim://llama-3.1-8b", "contextLength": 16384},
            "engine": {"type": "simulated"},
            "profiles": [profile],
            "migration": {"drainTimeout": "60s"},
        },
    }


@contextmanager
def served(release: Installed) -> Iterator[dict[str, Any]]:
    """The pool's one pod."""
    release.apply(pool())
    try:
        wait_for("the pool serves", lambda: len(release.pods(PODS)) == 1, SETTLED_S)
        yield release.pods(PODS)[0]
    finally:
        release.kubectl("delete", "modelpools.shunter.dev", POOL, "--timeout=120s")


def test_streams_outlive_the_drain_of_a_node(release: Installed) -> None:
    """Another instance serves first, although there was only one. Others' pods stay."""
    with served(release) as pod:
        node, gateway = pod["spec"]["nodeName"], Gateway.service(release)
        expected = undisturbed(gateway, POOL)
        busy = f"{PODS},shunter.dev/busy=true"
        wait_for("it is known to be busy", lambda: len(release.pods(busy)) == 1, SETTLED_S)
        try:
            with load(gateway, expected, POOL) as running:
                release.kubectl(
                    "drain", node, f"--pod-selector={PODS}", "--delete-emptydir-data",
                    "--ignore-daemonsets", "--timeout=150s", timeout_s=170.0,
                )  # fmt: skip
                (other,) = wait_for("another serves", lambda: release.pods(PODS), SETTLED_S)
        finally:
            release.kubectl("uncordon", node)
        assert other["spec"]["nodeName"] != node
        moves = ordered_moves(release, running.streams)
        assert any(d.reason.startswith("drain of ") for d in moves)
        assert sources(moves) == {pod["metadata"]["name"]}
        assert {d.winner for d in moves} == {other["metadata"]["name"]}
