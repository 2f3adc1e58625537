"""A pool that goes to zero, and comes back for requests that the gateway holds meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from cluster_load import Gateway, Stream, chat, texts, undisturbed
from helm_release import REAL_NODE, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
POOL = "idle"
PODS = f"shunter.dev/pool={POOL}"
HELD, TOKENS = 6, 100
SETTLED_S = 180.0


def pool() -> dict[str, Any]:
    """An engine that takes its time to start, so that streams hear what they wait for."""
    profile = {
        "name": "l4",
        "accelerator": "l4-24gb",
        "nodeSelector": {REAL_NODE: "yes"},
        "replicas": {"min": 0, "max": 1},
    }
    slow = 'sleep 12; exec shunter engine "$@"'
    engine = {"name": "engine", "command": ["sh", "-c", slow, "engine"]}
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
    with applied(release):
        wait_for("the first instance is asked for", lambda: _first(gateway), SETTLED_S)
        expected = undisturbed(gateway, POOL, TOKENS)
        wait_for("the pool is at zero", lambda: is_at_zero(release), SETTLED_S)
        streams = [Stream(text) for text in texts(HELD)]
        with ThreadPoolExecutor(HELD) as threads:
            asked = [threads.submit(gateway.read, s, POOL, TOKENS) for s in streams]
            wait_for("all are held", lambda: all(s.status for s in streams), 60.0)
            refused = release.ask(chat(8, model=POOL), gateway.key)
            for one in asked:
                one.result()
        assert (refused.status, "hold_full" in refused.text) == (503, True), refused.text
        assert [trouble for s in streams if (trouble := s.trouble(expected))] == []
        heard = {e.partition("phase=")[2].split()[0] for s in streams for e in s.comments}
        assert heard and heard <= {"scaling-up", "unschedulable", "loading-weights", "starting"}
        wait_for("it goes to zero again", lambda: is_at_zero(release), SETTLED_S)


def _first(gateway: Gateway) -> bool:
    return gateway.read(Stream("hi"), POOL, 4).complete
