"""Why a pool does not serve, as its conditions tell it: each cause provoked on real nodes."""

import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from helm_release import IMAGE, REAL_NODE, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
TOLD_S = 180.0
H100: Mapping[str, Any] = {"nodeSelector": {REAL_NODE: "yes", "node-pool": "h100"}}
PROGRAM_IMAGE: Mapping[str, Any] = {"type": "openai", "image": IMAGE}
EAT = "import time; time.sleep(1); held = b'x' * (1 << 30); time.sleep(60)"
SLOW = "import time; print('loading shard 3 of 9', flush=True); time.sleep(600)"


def program(code: str, **container: object) -> dict[str, Any]:
    """A pod template whose engine is a few lines of Python."""
    engine = {"name": "engine", "command": ["python3", "-c", code], **container}
    return {"spec": {"containers": [engine], "terminationGracePeriodSeconds": 2}}


def profile(**more: object) -> dict[str, Any]:
    """On nodes that run what is scheduled on them."""
    placed = {"nodeSelector": {REAL_NODE: "yes"}, "replicas": {"min": 1, "max": 1}}
    return {"name": "any", "accelerator": "l4-24gb", **placed, **more}


# Name of a pool: how it differs from one that serves, the reason, a part of the message.
TROUBLES: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "no-gpu": (
        {"profiles": [profile(resources={"limits": {"nvidia.com/gpu": 9}}, **H100)]},
        "InsufficientGPU",
        "nvidia.com/gpu",
    ),
    "no-cpu": (
        {"profiles": [profile(resources={"requests": {"cpu": "4000"}}, **H100)]},
        "InsufficientResources",
        "Insufficient cpu",
    ),
    "no-node": (
        {"profiles": [profile(nodeSelector={"node-pool": "b200"})]},
        "NodeSelectorMatchesNothing",
        "no node has the profile's labels",
    ),
    "no-claim": (
        {"engine": PROGRAM_IMAGE, "model": {"source": "hf://a/b", "cache": {"pvc": "nothing"}}},
        "VolumeNotFound",
        'persistentvolumeclaim "nothing" not found',
    ),
    "no-class": (
        {"podTemplate": {"spec": {"priorityClassName": "nothing"}}},
        "PodsRefused",
        "no PriorityClass with name nothing",
    ),
    "no-image": (
        {"engine": {"type": "simulated", "image": "nothing:none"}},
        "ImagePullFailed",
        "nothing:none",
    ),
    "no-secret": (
        {
            "engine": PROGRAM_IMAGE,
            "model": {"source": "hf://a/b", "credentialsSecretRef": {"name": "nothing"}},
        },
        "ContainerNotCreated",
        'secret "nothing" not found',
    ),
    "no-memory": (
        {
            "engine": PROGRAM_IMAGE,
            "podTemplate": program(EAT),
            "profiles": [profile(resources={"limits": {"memory": "64Mi"}})],
        },
        "EngineOOM",
        "the engine ran out of memory",
    ),
    "bad-flag": (
        {"engine": {"type": "simulated", "args": ["--speed-up"]}},
        "EngineCrashLoop",
        "No such option: --speed-up",
    ),
    "slow": (
        {
            "engine": PROGRAM_IMAGE,
            "podTemplate": program(SLOW, startupProbe={"periodSeconds": 1, "failureThreshold": 4}),
        },
        "ProbeTimeoutWhileLoading",
        "loading shard 3 of 9",
    ),
    "no-default": ({"engine": {"type": "vllm"}, "model": {"source": "hf://a/b"}},
                   "EngineImageMissing", "set spec.engine.image"),
    "same-model": (
        {"model": {"source": "sim://llama-3.1-8b", "name": "chat"}},
        "ConflictingModel",
        "chat",
    ),
    "unreadable": (
        {"model": {"source": "hf://a/b"}},
        "InvalidSpec",
        "engine type simulated loads a model from sim://",
    ),
}  # fmt: skip


def pool(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    spec = {
        "model": {"source": "sim://llama-3.1-8b"},
        "engine": {"type": "simulated"},
        "profiles": [profile()],
        "migration": {"drainTimeout": "1s"},
        **changes,
    }
    return document("ModelPool", name, spec)


def document(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def troubled(release: Installed) -> Iterator[Installed]:
    """All of them at once, since it is the waiting that takes the time."""
    release.apply(*(pool(name, changes) for name, (changes, _, _) in TROUBLES.items()))
    yield release
    release.kubectl("delete", "modelpools.shunter.dev", *TROUBLES, "--timeout=90s")


@pytest.mark.parametrize("name", TROUBLES)
def test_the_condition_says_why(troubled: Installed, name: str) -> None:
    _, reason, told = TROUBLES[name]
    wait_for(f"{name} is {reason}", lambda: _degraded(troubled, name) == reason, TOLD_S)
    # A kubelet that is late with its caches says so first, under the same reason.
    wait_for(f"{name} tells of {told}", lambda: told in _message(troubled, name), TOLD_S)
    assert troubled.condition(name, "Ready").get("status") != "True"


@contextmanager
def hub(release: Installed, status: int) -> Iterator[str]:
    """A model hub on this machine that has one answer to everything; pods reach it by its URL."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer((_own_address(release), 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{server.server_address[0]!s}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _own_address(release: Installed) -> str:
    """Of this machine, as nodes see it."""
    node = release.get("nodes", f"--selector={REAL_NODE}=yes")["items"][0]
    addresses = {a["type"]: a["address"] for a in node["status"]["addresses"]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((addresses["InternalIP"], 9))
        return str(sock.getsockname()[0])


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "WeightsUnauthorized"), (404, "WeightsNotFound"), (503, "WeightsUnavailable")],
)
def test_the_condition_says_what_the_hub_answers(
    release: Installed, status: int, reason: str
) -> None:
    with hub(release, status) as url:
        engine = {**PROGRAM_IMAGE, "env": [{"name": "HF_ENDPOINT", "value": url}]}
        release.apply(pool("weights", {"engine": engine, "model": {"source": "hf://a/b"}}))
        try:
            wait_for(reason, lambda: _degraded(release, "weights") == reason, TOLD_S)
        finally:
            release.kubectl("delete", "modelpools.shunter.dev", "weights", "--timeout=90s")


def _message(release: Installed, name: str) -> str:
    return release.condition(name, "Degraded").get("message", "")


def _degraded(release: Installed, name: str) -> str:
    """The reason; empty where nothing is wrong."""
    found = release.condition(name, "Degraded")
    return found["reason"] if found.get("status") == "True" else ""


@contextmanager
def policies(release: Installed, *documents: dict[str, Any]) -> Iterator[None]:
    release.apply(*documents)
    try:
        yield
    finally:
        release.kubectl("delete", "routingpolicies.shunter.dev", *names_of(documents))


def names_of(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    return [one["metadata"]["name"] for one in documents]


def test_a_rule_that_names_no_pool_is_found(release: Installed) -> None:
    rules = [{"name": "all", "when": {"models": ["x"]}, "route": [{"pool": "nothing"}]}]
    with policies(release, document("RoutingPolicy", "astray", {"rules": rules})):
        told = "PolicyRefNotFound"
        wait_for(told, lambda: _policy_degraded(release, "astray") == told, 60.0)


def test_a_rule_that_another_policy_leaves_nothing_is_found(release: Installed) -> None:
    rules = [{"name": "all", "when": {"models": ["x"]}, "route": [{"pool": "chat"}]}]
    early = document("RoutingPolicy", "early", {"priority": 2, "rules": rules})
    late = document("RoutingPolicy", "late", {"priority": 1, "rules": rules})
    with policies(release, early, late):
        told = "ConflictingPolicy"
        wait_for(told, lambda: _policy_degraded(release, "late") == told, 60.0)
        assert _policy_degraded(release, "early") == "AsExpected"


def _policy_degraded(release: Installed, name: str) -> str:
    """The condition's reason; empty where it is not there yet."""
    conditions = release.get("routingpolicy", name).get("status", {}).get("conditions", ())
    return next((c["reason"] for c in conditions if c["type"] == "Degraded"), "")
