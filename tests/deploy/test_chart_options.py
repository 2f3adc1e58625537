"""What the chart renders where it is asked for more: TLS, monitors, policies, scaling, the demo."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from helm_chart import (
    CHART,
    EVERYTHING,
    Helm,
    Object,
    RenderRefused,
    named,
    of_kind,
    pod_specs,
)
from shunter_api.validate import load_configuration
from shunter_operator.names import ENGINE_PORT_NAME, LABEL_POOL
from shunter_scheduler.sources.files import KNOWN


def demo_of(objects: list[Object]) -> list[Object]:
    """What the job after the installation applies."""
    return list(
        yaml.safe_load_all(named(objects, "ConfigMap", "shunter-demo")["data"]["demo.yaml"])
    )


def test_the_demo_is_applied_once_the_release_serves(helm: Helm) -> None:
    objects = helm.template("demo.enabled=true")
    assert of_kind(objects, "ModelPool", "RoutingPolicy") == []
    job = named(objects, "Job", "shunter-demo")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == (
        "post-install,post-upgrade,post-rollback"
    )
    role = named(objects, "Role", "shunter-demo")
    assert role["metadata"]["namespace"] == "serving"
    assert "helm.sh/hook" not in named(objects, "ConfigMap", "shunter-demo")["metadata"].get(
        "annotations", {}
    )


def test_without_hooks_the_demo_is_among_the_other_objects(helm: Helm) -> None:
    plain = helm.template("demo.enabled=true", "hooks.enabled=false")
    hooked = demo_of(helm.template("demo.enabled=true"))
    assert of_kind(plain, "ModelPool", "RoutingPolicy") == hooked


def test_the_demo_is_valid_and_wants_no_gpu(helm: Helm) -> None:
    demo = demo_of(helm.template("demo.enabled=true"))
    configuration = load_configuration([("demo.yaml", yaml.safe_dump_all(demo))], KNOWN)
    (pool,) = configuration.pools
    assert pool.engine_type == "simulated"
    assert len({profile.accelerator for profile in pool.profiles}) == 3
    assert not any(profile.resources.limits for profile in pool.profiles)
    assert not any(profile.node_selector for profile in pool.profiles)


def test_the_demo_can_be_placed_by_gpu(helm: Helm) -> None:
    """On the labels of the nodes in kind-config.yaml."""
    objects = helm.template("demo.enabled=true", "demo.placeByGpuLabel=true")
    kind = yaml.safe_load((CHART.parents[1] / "kind-config.yaml").read_text())
    label = "nvidia.com/gpu.product"
    nodes = [node["labels"][label] for node in kind["nodes"] if node["role"] == "worker"]
    pool = demo_of(objects)[0]
    assert [p["nodeSelector"][label] for p in pool["spec"]["profiles"]] == nodes


def test_nothing_of_the_demo_is_there_unasked(helm: Helm) -> None:
    objects = helm.template()
    assert of_kind(objects, "ModelPool", "RoutingPolicy", "ConfigMap") == []
    assert [j["metadata"]["name"] for j in of_kind(objects, "Job")] == [
        "shunter-upgrade",
        "shunter-removal",
    ]


def test_only_the_scheduler_gets_its_key(helm: Helm) -> None:
    """Those who call it get the authority's certificate, and what they show themselves."""
    objects = helm.template("scheduler.tls.secretName=own", "scheduler.tls.clientSecretName=mine")
    for part, wanted in (
        ("scheduler", {"own": None}),
        ("gateway", {"own": ["ca.crt"], "mine": ["tls.crt", "tls.key"]}),
        ("operator", {"own": ["ca.crt"], "mine": ["tls.crt", "tls.key"]}),
    ):
        spec = named(objects, "Deployment", f"shunter-{part}")["spec"]["template"]["spec"]
        found = dict(
            pair
            for volume in spec["volumes"]
            if volume["name"] in ("tls", "scheduler-tls")
            for pair in _secrets(volume)
        )
        assert found == wanted, part
        (container,) = spec["containers"]
        folders = [m["mountPath"] for m in container["volumeMounts"]]
        files = [a.partition("=")[2] for a in container["args"] if "/etc/shunter/" in a]
        certificates = [f for f in files if f.endswith((".crt", ".key"))]
        assert len(certificates) == 3
        assert all(f.rpartition("/")[0] in folders for f in certificates)


def _secrets(volume: dict[str, Any]) -> Iterator[tuple[str, list[str] | None]]:
    """Name, and the keys that are mounted; None: all."""
    if "secret" in volume:
        yield volume["secret"]["secretName"], None
        return
    for source in volume["projected"]["sources"]:
        yield source["secret"]["name"], [item["key"] for item in source["secret"]["items"]]


def test_without_client_certificates_the_scheduler_asks_for_none(helm: Helm) -> None:
    objects = helm.template("scheduler.tls.secretName=own")
    args = {
        part: named(objects, "Deployment", f"shunter-{part}")["spec"]["template"]["spec"][
            "containers"
        ][0]["args"]
        for part in ("scheduler", "gateway", "operator")
    }
    assert not any(a.startswith("--tls-ca") for a in args["scheduler"])
    for part in ("gateway", "operator"):
        assert "--scheduler-ca=/etc/shunter/scheduler-tls/ca.crt" in args[part]
        assert not any(a.startswith("--scheduler-cert") for a in args[part])


@pytest.mark.parametrize("server", [f"1.{minor}.0" for minor in (20, 25, 28, 31, 33, 35, 37)])
@pytest.mark.parametrize("settings", [(), EVERYTHING], ids=["plain", "everything"])
def test_every_server_is_given_versions_that_it_has(
    helm: Helm, server: str, settings: tuple[str, ...]
) -> None:
    """Of kinds whose versions came and went between Kubernetes 1.20 and 1.37."""
    minor = int(server.split(".")[1])
    wanted = {
        "PodDisruptionBudget": "policy/v1" if minor >= 21 else "policy/v1beta1",
        "HorizontalPodAutoscaler": "autoscaling/v2" if minor >= 23 else "autoscaling/v2beta2",
        "NetworkPolicy": "networking.k8s.io/v1",
        "Lease": "coordination.k8s.io/v1",
        "Job": "batch/v1",
    }
    objects = helm.template(*settings, kube_version=server)
    for value in objects:
        assert value["apiVersion"] == wanted.get(value["kind"], value["apiVersion"]), value["kind"]
    assert {"PodDisruptionBudget", "Lease", "Job"} <= {value["kind"] for value in objects}


def test_a_server_that_is_too_old_is_refused(helm: Helm) -> None:
    with pytest.raises(RenderRefused, match="incompatible with Kubernetes"):
        helm.template(kube_version="1.19.0")


def test_monitors_find_ports_that_exist_and_speak_as_the_process_does(helm: Helm) -> None:
    for settings, scheme in (((), None), (("gateway.tls.secretName=cert",), "https")):
        objects = helm.template(
            "serviceMonitor.enabled=true",
            "serviceMonitor.labels.release=prometheus",
            "serviceMonitor.interval=30s",
            *settings,
        )
        monitors = of_kind(objects, "ServiceMonitor", "PodMonitor")
        assert len(monitors) == 3
        for monitor in monitors:
            assert monitor["metadata"]["labels"]["release"] == "prometheus"
            spec = monitor["spec"]
            (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
            assert endpoint["interval"] == "30s"
            wanted = spec["selector"]["matchLabels"].items()
            ports = {
                port["name"]
                for value in objects
                for port in _ports(value, monitor["kind"] == "ServiceMonitor")
                if wanted <= _labels_of(value).items()
            }
            assert endpoint["port"] in ports, monitor["metadata"]["name"]
            if monitor["metadata"]["name"] == "shunter-gateway":
                assert endpoint.get("scheme", "http") == (scheme or "http")


def _ports(value: Object, services: bool) -> list[dict[str, Any]]:
    if services:
        return list(value["spec"]["ports"]) if value["kind"] == "Service" else []
    if value["kind"] != "Deployment":
        return []
    containers = value["spec"]["template"]["spec"]["containers"]
    return [port for container in containers for port in container["ports"]]


def _labels_of(value: Object) -> dict[str, str]:
    if value["kind"] == "Deployment":
        labels: dict[str, str] = value["spec"]["template"]["metadata"]["labels"]
        return labels
    return dict(value["metadata"].get("labels", {}))


def test_network_policies_let_in_who_must_come_in(helm: Helm) -> None:
    metrics_from = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    gateway_from = "networkPolicy.gatewayFrom[0].namespaceSelector.matchLabels.name=web"
    objects = helm.template("networkPolicy.enabled=true", metrics_from)
    scheduler = named(objects, "NetworkPolicy", "shunter-scheduler")
    assert callers(objects, scheduler, "grpc") == {"shunter-gateway", "shunter-operator"}
    assert callers(objects, scheduler, "metrics") == {"monitoring", "shunter-operator"}
    gateway = named(objects, "NetworkPolicy", "shunter-gateway")
    assert "from" not in gateway["spec"]["ingress"][0], "everybody may ask a gateway"
    narrow = helm.template("networkPolicy.enabled=true", metrics_from, gateway_from)
    gateway = named(narrow, "NetworkPolicy", "shunter-gateway")
    assert callers(narrow, gateway, "http") == {
        "web", "monitoring", "shunter-operator", "shunter-test",
    }, "shunter doctor and helm test ask it, too"  # fmt: skip


def test_only_the_release_and_other_engines_reach_engines(helm: Helm) -> None:
    """They ask for no key, and their KV events hold what was asked."""
    metrics_from = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    objects = helm.template("networkPolicy.enabled=true", metrics_from)
    policy = named(objects, "NetworkPolicy", "shunter-engines")["spec"]
    engines = {"matchExpressions": [{"key": LABEL_POOL, "operator": "Exists"}]}
    assert policy["podSelector"] == engines
    inside, metrics = policy["ingress"]
    parts = {
        one["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for one in inside["from"]
        if "matchLabels" in one["podSelector"]
    }
    assert parts == {"gateway", "scheduler", "operator"}
    assert {"podSelector": engines} in inside["from"]
    assert metrics["ports"] == [{"port": ENGINE_PORT_NAME, "protocol": "TCP"}]
    closed = named(helm.template("networkPolicy.enabled=true"), "NetworkPolicy", "shunter-engines")
    assert len(closed["spec"]["ingress"]) == 1, "nobody else, unless it is said"


def callers(objects: list[Object], policy: Object, port: str) -> set[str]:
    """The release's pods, and namespaces by their label, that reach a port."""
    pods = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in of_kind(objects, "Deployment")
    }
    pods |= {p["metadata"]["name"]: p["metadata"]["labels"] for p in of_kind(objects, "Pod")}
    rule = next(r for r in policy["spec"]["ingress"] if r["ports"][0]["port"] == port)
    found = set()
    for peer in rule["from"]:
        if "namespaceSelector" in peer:
            found.add(peer["namespaceSelector"]["matchLabels"]["name"])
        else:
            wanted = peer["podSelector"]["matchLabels"].items()
            found |= {name for name, labels in pods.items() if wanted <= labels.items()}
    return found


def test_no_secret_is_in_a_variable(helm: Helm) -> None:
    for name, spec in pod_specs(helm.template(*EVERYTHING)):
        for container in spec["containers"]:
            assert not any("valueFrom" in v for v in container.get("env") or ()), name


def test_replicas_keep_apart_by_node_and_by_zone(helm: Helm) -> None:
    for deployment in of_kind(helm.template(), "Deployment"):
        apart = deployment["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        terms = apart["preferredDuringSchedulingIgnoredDuringExecution"]
        assert [t["podAffinityTerm"]["topologyKey"] for t in terms] == [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ]


def test_the_autoscaler_has_the_gateways_replicas(helm: Helm) -> None:
    objects = helm.template(
        "gateway.autoscaling.enabled=true",
        "gateway.autoscaling.minReplicas=3",
        "gateway.autoscaling.maxReplicas=9",
        "gateway.autoscaling.targetCPUUtilizationPercentage=55",
    )
    (found,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (3, 9)
    (metric,) = found["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": 55}
    target = found["spec"]["scaleTargetRef"]
    assert named(objects, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]


def test_gateways_get_further_volumes(helm: Helm) -> None:
    objects = helm.template(
        "gateway.extraArgs={--slot-folder=/slots}",
        "gateway.extraVolumes[0].name=slots",
        "gateway.extraVolumes[0].persistentVolumeClaim.claimName=slots",
        "gateway.extraVolumeMounts[0].name=slots",
        "gateway.extraVolumeMounts[0].mountPath=/slots",
    )
    spec = named(objects, "Deployment", "shunter-gateway")["spec"]["template"]["spec"]
    claim = {"name": "slots", "persistentVolumeClaim": {"claimName": "slots"}}
    assert claim in spec["volumes"]
    (container,) = spec["containers"]
    assert {"name": "slots", "mountPath": "/slots"} in container["volumeMounts"]
    assert "--slot-folder=/slots" in container["args"]
