"""Facts of a sound release, for tests that spoil one of them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from shunter.doctor.facts import (
    ClusterFacts,
    EngineFacts,
    InstanceFacts,
    LeaseFacts,
    ModelFacts,
    Page,
    Place,
    PoolFacts,
    Rights,
    SchedulerFacts,
    SchedulerPages,
    Server,
    ServiceFacts,
)
from shunter.doctor.findings import Finding, State
from shunter.release import definitions
from shunter_operator.pods import moment

VERSION = (1, 30)
NOW = datetime(2026, 11, 22, 17, 0, 0, tzinfo=UTC)
MODELS = '{"data": [{"id": "chat", "max_model_len": 8192}]}'
METRICS = "# HELP\nvllm:num_requests_running 0\n"


def node(name: str = "gpu-0", **changes: Any) -> dict[str, Any]:
    """With eight H100s. `changes`: `labels`, `taints`, `allocatable`, `unschedulable`, `ready`."""
    amounts = {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"}
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "node-pool": "h100"}
    return {
        "metadata": {"name": name, "labels": changes.get("labels", labels)},
        "spec": {
            "taints": changes.get("taints", []),
            "unschedulable": changes.get("unschedulable", False),
        },
        "status": {
            "capacity": amounts,
            "allocatable": {**amounts, **changes.get("allocatable", {})},
            "conditions": [{"type": "Ready", "status": changes.get("ready", "True")}],
        },
    }


def pool(name: str = "chat", *profiles: dict[str, Any], **spec: Any) -> dict[str, Any]:
    plain = {"name": "h100", "accelerator": "h100-sxm-80gb"}
    conditions = [{"type": "Degraded", "status": "False", "reason": "AsWanted"}]
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name, "namespace": "serving"},
        "spec": {
            "model": {"source": "hf://org/model", "name": name},
            "engine": {"type": "vllm", "image": "vllm:1"},
            "profiles": list(profiles) or [plain],
            **spec,
        },
        "status": {"conditions": conditions},
    }


def deployment(
    name: str, ready: int = 2, version: str = "0.1.0", wanted: int = 2
) -> dict[str, Any]:
    component = name.removeprefix("shunter-")
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/version": version}},
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": {"app.kubernetes.io/component": component}},
        },
        "status": {"readyReplicas": ready},
    }


def lease(holder: str, renewed: str = "2026-11-22T16:59:58.000000Z") -> LeaseFacts:
    return LeaseFacts(holder, moment(renewed), 6.0, NOW)


def pages(leading: int) -> SchedulerPages:
    metrics = f"# TYPE shunter_scheduler_leading gauge\nshunter_scheduler_leading {leading}.0\n"
    return SchedulerPages(Page(200, "ok"), Page(200, metrics))


def cluster(**changes: Any) -> ClusterFacts:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    sound = ClusterFacts(
        place=Place("serving", wide=True),
        version="0.1.0",
        server=Server("https://api:6443", VERSION, "v1.30.2", 0.2, 0.6),
        definitions={
            d["metadata"]["name"]: {**d, "status": established} for d in definitions(VERSION)
        },
        rights={"scheduler": Rights(12, ()), "operator": Rights(43, ())},
        nodes=(node(),),
        adds_nodes="",
        pools=(pool(),),
        runtime_classes=frozenset({"nvidia"}),
        deployments={
            name: deployment(name)
            for name in ("shunter-gateway", "shunter-scheduler", "shunter-operator")
        },
        leases={"scheduler": lease("s-0_ab"), "operator": lease("o-0_cd")},
        schedulers={"s-0": pages(1), "s-1": pages(0)},
        webhooks=(),
        trial="",
    )
    return replace(sound, **changes)


def engine(name: str = "chat-h100-0", **changes: Any) -> EngineFacts:
    sound = EngineFacts(
        name=name,
        pool="chat",
        model=ModelFacts("vllm", True, "hf://org/model", "chat", 8192),
        health=Page(200, ""),
        models=Page(200, MODELS),
        metrics=Page(200, METRICS),
        token_ids=(1, 2, 3),
    )
    return replace(sound, **changes)


def scheduler(**changes: Any) -> SchedulerFacts:
    sound = SchedulerFacts(
        "127.0.0.1:50051",
        alive=True,
        leads=True,
        term=3,
        gateways=1,
        pools=(PoolFacts("chat", 1),),
        instances=(InstanceFacts("chat-h100-0", "chat", "127.0.0.1:8000", "ready"),),
    )
    return replace(sound, **changes)


def service(**changes: Any) -> ServiceFacts:
    sound = ServiceFacts(
        gateway=Page(200, "ready\n"),
        scheduler=scheduler(),
        engines=(engine(),),
        tokenizers={"hf://org/model": (1, 2, 3)},
    )
    return replace(sound, **changes)


def expect(findings: list[Finding], state: State, said: str, remedy: str) -> None:
    assert any(f.state is state and said in f.message and remedy in f.remedy for f in findings), (
        findings
    )
