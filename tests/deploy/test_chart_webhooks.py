"""What the chart makes for admission webhooks, and where it makes none."""

import pytest

from helm_chart import Helm, Object, named, of_kind
from shunter.release import LEASE_S, STOP_S
from shunter_operator.admission.registration import SERVICE_PORT
from shunter_operator.admission.service import NAME

CONFIGURATIONS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


def operator(objects: list[Object]) -> tuple[Object, Object]:
    """Spec of the Deployment, and its container."""
    spec = named(objects, "Deployment", "shunter-operator")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return spec, container


def test_the_configurations_are_the_operators_to_fill_in(helm: Helm) -> None:
    """Whatever the chart said in them would be refused by an API server before anybody answers."""
    for found in of_kind(helm.template(), *CONFIGURATIONS):
        assert found["metadata"]["name"] == "shunter-webhook-serving"
        assert "webhooks" not in found
    (secret,) = [s for s in of_kind(helm.template(), "Secret") if s["metadata"]["name"] == NAME]
    assert "data" not in secret and "stringData" not in secret


def test_every_replica_serves_and_is_ready_once_it_is_asked(helm: Helm) -> None:
    objects = helm.template()
    spec, container = operator(objects)
    assert spec["replicas"] >= 2
    assert "--webhooks=shunter-webhook-serving" in container["args"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    service = named(objects, "Service", NAME)
    (port,) = service["spec"]["ports"]
    (target,) = [p for p in container["ports"] if p["name"] == port["targetPort"]]
    assert port["port"] == SERVICE_PORT
    assert f"--webhook-port={target['containerPort']}" in container["args"]


def test_the_operator_writes_to_its_own_names_only(helm: Helm) -> None:
    objects = helm.template()
    rights = {
        (resource, *rule["resourceNames"])
        for role in of_kind(objects, "Role", "ClusterRole")
        if "webhook" in role["metadata"]["name"]
        for rule in role["rules"]
        for resource in rule["resources"]
    }
    configuration = "shunter-webhook-serving"
    assert rights == {
        ("secrets", "shunter-webhook"),
        ("namespaces", "serving"),
        ("validatingwebhookconfigurations", configuration),
        ("mutatingwebhookconfigurations", configuration),
    }


def test_the_removal_takes_the_configurations_away_first(helm: Helm) -> None:
    objects = helm.template()
    (job,) = [j for j in of_kind(objects, "Job") if j["metadata"]["name"] == "shunter-removal"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--webhooks=shunter-webhook-serving" in container["args"]
    role = named(objects, "ClusterRole", "shunter-removal-webhooks-serving")
    assert role["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    (rule,) = role["rules"]
    assert (rule["verbs"], rule["resourceNames"]) == (["delete"], ["shunter-webhook-serving"])


def test_the_removal_has_time_to_stop_the_operator_after_the_pools(helm: Helm) -> None:
    (job,) = [
        j for j in of_kind(helm.template(), "Job") if j["metadata"]["name"] == "shunter-removal"
    ]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (wait_s,) = [int(a.removeprefix("--wait=")) for a in container["args"] if "--wait=" in a]
    to_start_s = 30
    assert wait_s + STOP_S + LEASE_S + to_start_s <= job["spec"]["activeDeadlineSeconds"]


@pytest.mark.parametrize("setting", ["scope=namespace", "webhooks.enabled=false"])
def test_there_are_none_where_they_cannot_be_or_are_not_wanted(helm: Helm, setting: str) -> None:
    objects = helm.template(setting, "networkPolicy.enabled=true")
    assert not [v for v in objects if "webhook" in v["metadata"]["name"]]
    _, container = operator(objects)
    assert not any("webhook" in argument for argument in container["args"])
    assert [port["name"] for port in container["ports"]] == ["metrics"]


def test_a_network_policy_lets_api_servers_in(helm: Helm) -> None:
    policy = named(helm.template("networkPolicy.enabled=true"), "NetworkPolicy", "shunter-operator")
    (rule,) = [r for r in policy["spec"]["ingress"] if r["ports"][0]["port"] == "webhook"]
    assert "from" not in rule
