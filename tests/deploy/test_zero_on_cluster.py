"""A pool that goes to zero, and comes back for requests that the gateway holds meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from cluster_load import Gateway, Stream, chat, texts, undisturbed
from helm_release import REAL_NODE, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
POOL = "idle"
PODS = f"shunter.dev/pool={POOL}"
HELD, TOKENS = 6, 100
SETTLED_S = 180.0


# The engine starts when the test says so: until then its requests are held.
GO = "/tmp/go"
WAITING = f'trap "exit 0" TERM; until [ -e {GO} ]; do sleep 0.2; done; exec shunter engine "$@"'


def pool() -> dict[str, Any]:
    profile = {
        "name": "l4",
        "accelerator": "l4-24gb",
        "nodeSelector": {REAL_NODE: "yes"},
        "replicas": {"min": 0, "max": 1},
    }
    engine = {"name": "engine", "command": ["sh", "-c", WAITING, "engine"]}
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": POOL},
        "spec": {
            "model": {"source": "sim://llama-3.1-8b", "contextLength": 16384},
            "engine": {"type": "simulated"},
            "profiles": [profile],
            "scaling": {
                "scaleToZero": {"after": "5s", "maxHeld": HELD, "holdTimeout": "150s"},
                "scaleDownAfter": "5s",
            },
            "migration": {"drainTimeout": "30s"},
            "podTemplate": {"spec": {"containers": [engine]}},
        },
    }


@contextmanager
def applied(release: Installed) -> Iterator[None]:
    release.apply(pool())
    try:
        yield
    finally:
        release.kubectl("delete", "modelpools.shunter.dev", POOL, "--timeout=120s")


def is_at_zero(release: Installed) -> bool:
    ready = release.condition(POOL, "Ready")
    gone = not release.get("pods", f"--selector={PODS}")["items"]
    return gone and ready.get("reason") == "ScaledToZero"


def test_streams_are_held_while_a_pool_comes_back_from_zero(release: Installed) -> None:
    gateway = Gateway.service(release)
    with applied(release), ThreadPoolExecutor(HELD) as threads:
        first = threads.submit(wait_for, "the first one is answered", partial(_first, gateway), 300)
        let_start(release)
        assert first.result()
        expected = undisturbed(gateway, POOL, TOKENS)
        wait_for("the pool is at zero", lambda: is_at_zero(release), SETTLED_S)
        streams = [Stream(text) for text in texts(HELD)]
        asked = [threads.submit(gateway.read, s, POOL, TOKENS) for s in streams]
        wait_for("all are held", lambda: all(s.comments for s in streams), 60.0)
        refused = release.ask(chat(8, model=POOL), gateway.key)
        let_start(release)
        for one in asked:
            one.result()
        assert (refused.status, "hold_full" in refused.text) == (503, True), refused.text
        assert [trouble for s in streams if (trouble := s.trouble(expected))] == []
        heard = {e.partition("phase=")[2].split()[0] for s in streams for e in s.comments}
        assert heard and heard <= {"scaling-up", "unschedulable", "loading-weights", "starting"}
        wait_for("it goes to zero again", lambda: is_at_zero(release), SETTLED_S)


def let_start(release: Installed) -> None:
    """The engine of the pool's pod, once its container runs."""
    pod = wait_for("a pod's container runs", lambda: _running(release), SETTLED_S)
    release.kubectl("exec", pod, "--container=engine", "--", "touch", GO)


def _running(release: Installed) -> str | None:
    for pod in release.get("pods", f"--selector={PODS}")["items"]:
        states = [c["state"] for c in pod["status"].get("containerStatuses", ())]
        if "deletionTimestamp" not in pod["metadata"] and any("running" in s for s in states):
            return str(pod["metadata"]["name"])
    return None


def _first(gateway: Gateway) -> bool:
    return gateway.read(Stream("hi"), POOL, 4).complete
