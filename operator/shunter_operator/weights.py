"""How an engine's pod comes by its weights. Pure.

What is fetched is fetched by an init container of our own image, whatever the engine: into the
volume of `model.cache`, where one pod does it for all, or into the pod's own. The engine then opens
a path, and gets neither credentials nor the right to write there.
"""

import re
from collections.abc import Iterator
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.weights import (
    FETCHED_SCHEMES,
    WEIGHTS_REASONS,
    WeightsReason,
    claim_and_path,
    fetched_path,
)
from shunter_operator.values import Environment, Termination

FETCH_CONTAINER = "fetch-weights"
WEIGHTS_VOLUME = "weights"
WEIGHTS_PATH = "/weights"
# For engines that are started by others' arguments: `--model $(SHUNTER_MODEL_PATH)`.
PATH_VARIABLE = "SHUNTER_MODEL_PATH"
DEFAULT_TOKEN_KEY = "token"
# Variables by the keys of a Secret.
_S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_S3_OPTIONAL_KEYS = ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
_OCI_KEYS = {"username": "OCI_USERNAME", "password": "OCI_PASSWORD"}
# Of the engine's variables those that say where and through what to fetch.
_FETCH_VARIABLE = re.compile(
    r"HF_ENDPOINT|OCI_PLAIN_HTTP|AWS_[A-Z0-9_]+|PIP_[A-Z0-9_]+|SSL_CERT_(FILE|DIR)"
    r"|(HTTP|HTTPS|NO|ALL)_PROXY|(http|https|no|all)_proxy"
)
# They may go away by themselves: the source is asked again.
_PASSING: tuple[WeightsReason, ...] = ("WeightsUnavailable",)
_MAX_QUOTED = 600


def is_fetched(pool: ModelPool) -> bool:
    return pool.spec.model.source_scheme in FETCHED_SCHEMES


def model_path(pool: ModelPool) -> str:
    """What the engine opens; empty for simulated models, which have no files."""
    source, scheme = pool.spec.model.source, pool.spec.model.source_scheme
    if scheme in FETCHED_SCHEMES:
        return f"{WEIGHTS_PATH}/{fetched_path(source)}"
    if scheme == "pvc":
        return f"{WEIGHTS_PATH}/{claim_and_path(source)[1]}".rstrip("/")
    return source.partition("://")[2] if scheme == "file" else ""


def volumes(pool: ModelPool) -> list[dict[str, Any]]:
    """None where nothing is fetched or mounted."""
    cache = pool.spec.model.cache
    source: dict[str, Any] = {"emptyDir": {}}
    if pool.spec.model.source_scheme == "pvc":
        name = claim_and_path(pool.spec.model.source)[0]
        source = {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}
    elif not is_fetched(pool):
        return []
    elif cache is not None:
        source = {"persistentVolumeClaim": {"claimName": cache.pvc}}
    return [{"name": WEIGHTS_VOLUME, **source}]


def engine_mounts(pool: ModelPool) -> list[dict[str, Any]]:
    mount = {"name": WEIGHTS_VOLUME, "mountPath": WEIGHTS_PATH, "readOnly": True}
    return [mount] if volumes(pool) else []


def init_containers(pool: ModelPool, environment: Environment) -> list[dict[str, Any]]:
    """`shunter fetch`, which ends at once where the volume has the weights."""
    if not is_fetched(pool):
        return []
    return [
        {
            "name": FETCH_CONTAINER,
            "image": environment.image,
            "imagePullPolicy": environment.image_pull_policy,
            "command": ["shunter", "fetch"],
            "args": [
                pool.spec.model.source,
                *("--to", WEIGHTS_PATH, "--report", "/dev/termination-log"),
            ],
            "env": [*_variables(pool), *_credentials(pool)],
            "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": WEIGHTS_VOLUME, "mountPath": WEIGHTS_PATH},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
    ]


def _variables(pool: ModelPool) -> Iterator[dict[str, Any]]:
    yield {"name": "HOME", "value": "/tmp"}
    field = {"fieldRef": {"fieldPath": "metadata.name"}}
    yield {"name": "SHUNTER_FETCH_HOLDER", "valueFrom": field}
    secret = {variable["name"] for variable in _credentials(pool)}
    for variable in pool.spec.engine.env:
        if _FETCH_VARIABLE.fullmatch(variable.name) and variable.name not in secret:
            yield {"name": variable.name, "value": variable.value}


def _credentials(pool: ModelPool) -> Iterator[dict[str, Any]]:
    """References: the kubelet reads the Secret, the operator does not."""
    secret = pool.spec.model.credentials_secret_ref
    if secret is None:
        return
    if pool.spec.model.source_scheme == "hf":
        yield _from_secret("HF_TOKEN", secret.name, secret.key or DEFAULT_TOKEN_KEY)
        return
    if pool.spec.model.source_scheme == "oci":
        for key, variable in _OCI_KEYS.items():
            yield _from_secret(variable, secret.name, key)
        return
    for name in _S3_KEYS:
        yield _from_secret(name, secret.name, name)
    for name in _S3_OPTIONAL_KEYS:
        yield _from_secret(name, secret.name, name, optional=True)


def _from_secret(variable: str, secret: str, key: str, optional: bool = False) -> dict[str, Any]:
    reference: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def fetch_failure(ended: Termination, running: bool) -> tuple[str, str, bool] | None:
    """Reason, message and whether waiting does not help, of a fetch that ended badly.

    One that runs again is on its way, unless what stopped it will stop it again.
    """
    if ended.exit_code == 0:
        return None
    said = ended.message.strip()
    reason, _, message = said.partition(": ")
    if reason not in WEIGHTS_REASONS:
        last = said.rpartition("\n")[2]
        how = "ran out of memory" if ended.reason == "OOMKilled" else f"ended: {ended.exit_code}"
        reason, message = "WeightsFetchFailed", f"the download {how}{': ' * bool(last)}{last}"
    passing = reason in _PASSING
    if passing and running:
        return None
    return reason, message[:_MAX_QUOTED], not passing
