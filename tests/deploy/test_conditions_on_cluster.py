"""Why a pool does not serve, as its conditions tell it: each cause provoked on real nodes."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from helm_release import IMAGE, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
TOLD_S = 180.0
H100: Mapping[str, Any] = {"nodeSelector": {"node-pool": "h100"}}
PROGRAM_IMAGE: Mapping[str, Any] = {"type": "openai", "image": IMAGE}
EAT = "import time; time.sleep(1); held = b'x' * (1 << 30); time.sleep(60)"
TOKEN = "raise SystemExit('401 Client Error: Unauthorized for url: https://hub/m/config.json')"
SLOW = "import time; print('loading shard 3 of 9', flush=True); time.sleep(600)"


def program(code: str, **container: object) -> dict[str, Any]:
    """A pod template whose engine is a few lines of Python."""
    engine = {"name": "engine", "command": ["python3", "-c", code], **container}
    return {"spec": {"containers": [engine], "terminationGracePeriodSeconds": 2}}


def profile(**more: object) -> dict[str, Any]:
    return {"name": "any", "accelerator": "l4-24gb", "replicas": {"min": 1, "max": 1}, **more}


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
        {"model": {"source": "sim://llama-3.1-8b", "cache": {"pvc": "nothing"}}},
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
        {"model": {"source": "sim://llama-3.1-8b", "credentialsSecretRef": {"name": "nothing"}}},
        "ContainerNotCreated",
        'secret "nothing" not found',
    ),
    "no-token": (
        {"engine": PROGRAM_IMAGE, "podTemplate": program(TOKEN)},
        "WeightsUnauthorized",
        "401 Client Error",
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

    def degraded() -> bool:
        found = troubled.condition(name, "Degraded")
        return (found.get("status"), found.get("reason")) == ("True", reason)

    wait_for(f"{name} is {reason}", degraded, TOLD_S)
    assert told in troubled.condition(name, "Degraded")["message"]
    assert troubled.condition(name, "Ready").get("status") != "True"


def test_a_rule_that_names_no_pool_is_found(release: Installed) -> None:
    rules = [{"name": "all", "when": {"models": ["x"]}, "route": [{"pool": "nothing"}]}]
    release.apply(document("RoutingPolicy", "astray", {"priority": -1, "rules": rules}))
    try:

        def reason() -> str | None:
            status = release.get("routingpolicy", "astray").get("status", {})
            return next(
                (c["reason"] for c in status.get("conditions", ()) if c["type"] == "Degraded"), None
            )

        wait_for("it is told", lambda: reason() == "PolicyRefNotFound", 60.0)
    finally:
        release.kubectl("delete", "routingpolicy", "astray")
