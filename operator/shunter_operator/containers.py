"""The engine's container, from a pool and one of its profiles. Pure."""

from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_operator import engine_files, weights
from shunter_operator.engines import CACHE_PATH, arguments, command, engine_image, engine_port
from shunter_operator.names import ENGINE_CONTAINER, ENGINE_PORT_NAME
from shunter_operator.stopping import lifecycle
from shunter_operator.values import Environment

# How long an engine may load its weights: 70B models over a slow network take most of an hour.
STARTUP_PERIOD_S = 5
STARTUP_BUDGET_S = 3600


def engine_container(pool: ModelPool, profile: Profile, environment: Environment) -> dict[str, Any]:
    port = engine_port(pool)
    health = {"path": "/health", "port": ENGINE_PORT_NAME}
    container: dict[str, Any] = {
        "name": ENGINE_CONTAINER,
        "image": engine_image(pool, environment),
        "imagePullPolicy": environment.image_pull_policy,
        "env": _environment(pool),
        "ports": [{"name": ENGINE_PORT_NAME, "containerPort": port, "protocol": "TCP"}],
        "resources": _resources(pool, profile),
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": STARTUP_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": STARTUP_BUDGET_S // STARTUP_PERIOD_S,
        },
        "readinessProbe": {
            "httpGet": health,
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        # The engine's last words are then in the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_PATH},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *weights.engine_mounts(pool),
            *engine_files.mounts(pool),
        ],
        "lifecycle": lifecycle(pool),
    }
    if program := command(pool):
        container["command"] = program
    if given := arguments(pool, profile):
        container["args"] = given
    return container


def _environment(pool: ModelPool) -> list[dict[str, Any]]:
    """Everything that an engine writes goes to its cache volume or to /tmp."""
    variables: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value}
        for name, value in (
            ("HOME", "/tmp"),
            ("XDG_CACHE_HOME", CACHE_PATH),
            ("HF_HOME", f"{CACHE_PATH}/huggingface"),
        )
    }
    if path := weights.model_path(pool):
        variables[weights.PATH_VARIABLE] = {"name": weights.PATH_VARIABLE, "value": path}
    for variable in pool.spec.engine.env:
        variables[variable.name] = {"name": variable.name, "value": variable.value}
    return list(variables.values())


_OWN_REQUESTS: dict[str, dict[str, str]] = {
    "simulated": {"cpu": "100m", "memory": "192Mi"},
    "numpy": {"cpu": "1", "memory": "1Gi"},
}


def _resources(pool: ModelPool, profile: Profile) -> dict[str, Any]:
    """As the profile says; else one GPU an accelerator, but for engines that use none."""
    limits, requests = dict(profile.resources.limits), dict(profile.resources.requests)
    if not limits and not requests:
        requests = dict(_OWN_REQUESTS.get(pool.engine_type, {}))
        if pool.engine_type in ("vllm", "sglang"):
            limits = {"nvidia.com/gpu": str(profile.tensor_parallel)}
    named = (("limits", limits), ("requests", requests))
    return {name: quantities for name, quantities in named if quantities}
