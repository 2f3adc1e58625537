"""What the chart renders, for every way to install it."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml

from helm_chart import CHART, EVERYTHING, Helm, Object, RenderRefused, named, of_kind, pod_specs
from pod_security import violations
from shunter.config import rules_path
from shunter_api.engine import EngineType

WAYS = [(), EVERYTHING, ("scope=namespace",), ("scope=namespace", *EVERYTHING)]
ROLES = ("Role", "ClusterRole")
BOUND = ("RoleBinding", "ClusterRoleBinding")


@pytest.fixture(params=WAYS, ids=["plain", "everything", "namespaced", "namespaced everything"])
def objects(request: pytest.FixtureRequest, helm: Helm) -> list[Object]:
    return helm.template(*request.param)


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gateway.replica=3", "replica"),
        ("gateway.service.port=99999", "/gateway/service/port"),
        ("scope=galaxy", "/scope"),
        ("gateway.auth.mode=existing", "/gateway/auth/existingSecret"),
        ("scheduler.tls.clientSecretName=clients", "/scheduler/tls/secretName"),
        ("gateway.auth.existingSecret=No_Name", "/gateway/auth/existingSecret"),
        ("scheduler.replicas=0", "/scheduler/replicas"),
        ("operator.logLevel=loud", "/operator/logLevel"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("gateway.graceSeconds=-1", "/gateway/graceSeconds"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(helm: Helm, setting: str, said: str) -> None:
    with pytest.raises(RenderRefused, match=re.escape(said)):
        helm.template(setting)


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert sorted(_keys(values, schema)) == []


def test_every_type_of_engine_may_have_an_image() -> None:
    """But for those that the own image holds."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    images = schema["properties"]["operator"]["properties"]["engineImages"]["properties"]
    assert images.keys() == set(get_args(EngineType)) - {"simulated", "numpy"}


def _keys(values: dict[str, Any], schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """Objects of the values whose keys the schema leaves open or does not know."""
    known = schema.get("properties")
    if known is None:
        return
    for key, value in values.items():
        if key not in known:
            yield f"{at}{key}"
        elif isinstance(value, dict) and "$ref" not in known[key]:
            yield from _keys(value, known[key], f"{at}{key}.")


def test_every_pod_meets_restricted_and_writes_to_no_root(objects: list[Object]) -> None:
    pods = dict(pod_specs(objects))
    assert len(pods) >= 4
    for name, spec in pods.items():
        assert violations(spec) == [], name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["limits"]["memory"], name


def test_nobody_may_do_what_he_need_not(objects: list[Object]) -> None:
    roles = of_kind(objects, *ROLES)
    assert roles
    for role in roles:
        for rule in role["rules"]:
            text = json.dumps(rule)
            assert "*" not in text, role["metadata"]["name"]
            assert "pods/exec" not in text, role["metadata"]["name"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["shunter-webhook"] and role["kind"] == "Role"
            if "leases" in rule["resources"]:
                assert rule["resourceNames"] and role["kind"] == "Role"


def test_the_scheduler_writes_nothing_but_its_lease(objects: list[Object]) -> None:
    rules = [
        rule
        for role in of_kind(objects, *ROLES)
        if role["metadata"]["labels"]["app.kubernetes.io/component"] == "scheduler"
        for rule in role["rules"]
    ]
    writes = {(*rule["resources"], verb) for rule in rules for verb in rule["verbs"]}
    assert {w for w in writes if w[-1] not in ("get", "list", "watch")} == {("leases", "update")}


def test_the_gateway_has_no_rights_and_no_token(objects: list[Object]) -> None:
    gateway = named(objects, "Deployment", "shunter-gateway")
    assert gateway["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    subjects = [s["name"] for b in of_kind(objects, *BOUND) for s in b["subjects"]]
    assert "shunter-gateway" not in subjects


def test_bindings_lead_from_accounts_that_exist_to_roles_that_exist(objects: list[Object]) -> None:
    roles = {(r["kind"], r["metadata"]["name"]) for r in of_kind(objects, *ROLES)}
    accounts = {
        (a["metadata"]["namespace"], a["metadata"]["name"])
        for a in of_kind(objects, "ServiceAccount")
    }
    for binding in of_kind(objects, *BOUND):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts
    for name, spec in pod_specs(objects):
        if "serviceAccountName" in spec:
            assert ("serving", spec["serviceAccountName"]) in accounts, name


def test_a_namespaced_install_makes_nothing_outside_its_namespace(helm: Helm) -> None:
    for value in helm.template("scope=namespace", *EVERYTHING):
        assert value["metadata"].get("namespace") == "serving", value["metadata"]["name"]
        assert not value["kind"].startswith("Cluster")


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ((), True),
        (("operator.watchNodes=never",), False),
        (("scope=namespace",), False),
        (("scope=namespace", "operator.watchNodes=always"), True),
    ],
)
def test_nodes_are_read_where_that_is_wanted(
    helm: Helm, settings: tuple[str, ...], may: bool
) -> None:
    rules = [
        rule
        for role in of_kind(helm.template(*settings), "ClusterRole", "Role")
        for rule in role["rules"]
        if "nodes" in rule["resources"]
    ]
    assert (
        rules
        == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}][
            : int(may)
        ]
    )


def test_two_releases_share_no_object(helm: Helm) -> None:
    names = [
        {
            (v["kind"], v["metadata"].get("namespace", ""), v["metadata"]["name"])
            for v in helm.template(namespace=namespace)
        }
        for namespace in ("one", "two")
    ]
    assert not names[0] & names[1]


def deployment_of(value: Object) -> str:
    """What a Service or a policy is for: all have one name, but for these Services."""
    name: str = value["metadata"]["name"]
    others = {"shunter-schedulers": "shunter-scheduler", "shunter-webhook": "shunter-operator"}
    return others.get(name, name)


def test_selectors_find_the_pods_that_they_mean(objects: list[Object]) -> None:
    pods = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in of_kind(objects, "Deployment")
    }
    for name, labels in pods.items():
        selector = named(objects, "Deployment", name)["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
    for value in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        if value["metadata"]["name"] == "shunter-engines":
            continue  # whose pods the operator makes
        spec = value["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        selector = selector.get("matchLabels", selector)
        matched = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert matched == [deployment_of(value)], value["kind"]


def test_ports_that_are_named_exist(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        deployment = named(objects, "Deployment", deployment_of(service))
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        names = {port["name"] for port in container["ports"]}
        probes = [container[p] for p in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= names
        assert {p["httpGet"]["port"] for p in probes} <= names


def test_old_servers_can_apply_it(objects: list[Object]) -> None:
    """Before 1.22 server-side apply asks for a port's protocol and for quantities as strings."""
    for value in of_kind(objects, "Service"):
        assert all(port.get("protocol") for port in value["spec"]["ports"])
    for name, spec in pod_specs(objects):
        for container in spec["containers"]:
            assert all(port.get("protocol") for port in container.get("ports", ())), name
            quantities = [q for kind in container["resources"].values() for q in kind.values()]
            assert all(isinstance(quantity, str) for quantity in quantities), name


def test_quantities_may_be_given_as_numbers(helm: Helm) -> None:
    objects = helm.template("gateway.resources.requests.cpu=2")
    (container,) = named(objects, "Deployment", "shunter-gateway")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["resources"]["requests"]["cpu"] == "2"


@pytest.mark.parametrize(
    ("server", "budget", "autoscaler"),
    [
        ("1.20.2", "policy/v1beta1", "autoscaling/v2beta2"),
        ("1.22.0", "policy/v1", "autoscaling/v2beta2"),
        ("1.34.1", "policy/v1", "autoscaling/v2"),
        ("1.28.3-gke.100", "policy/v1", "autoscaling/v2"),
    ],
)
def test_api_versions_are_the_servers(
    helm: Helm, server: str, budget: str, autoscaler: str
) -> None:
    objects = helm.template("gateway.autoscaling.enabled=true", kube_version=server)
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert {value["apiVersion"] for value in budgets} == {budget}
    (found,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert found["apiVersion"] == autoscaler
    assert "replicas" not in named(objects, "Deployment", "shunter-gateway")["spec"]


def test_a_gateway_has_time_to_let_answers_finish(helm: Helm) -> None:
    objects = helm.template("gateway.graceSeconds=90", "gateway.drainDelaySeconds=7")
    spec = named(objects, "Deployment", "shunter-gateway")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert "--grace=90" in container["args"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert spec["terminationGracePeriodSeconds"] > 90 + 7


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ((), "--api-keys=/etc/shunter/keys/keys.yaml"),
        (("gateway.auth.mode=existing", "gateway.auth.existingSecret=mine"), "--api-keys"),
        (("gateway.auth.mode=open",), "--insecure-open"),
        (("gateway.tls.secretName=cert",), "--tls-cert=/etc/shunter/tls/tls.crt"),
    ],
)
def test_who_may_ask(helm: Helm, settings: tuple[str, ...], argument: str) -> None:
    gateway = named(helm.template(*settings), "Deployment", "shunter-gateway")
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert any(a.startswith(argument) for a in container["args"])
    assert ("--insecure-open" in container["args"]) == (argument == "--insecure-open")


@pytest.mark.parametrize(
    ("secret", "curl"),
    [
        ("", "curl -N http://localhost:8080/v1/chat/completions"),
        # Its certificate is for another name than that of a forwarded port.
        ("cert", "curl -kN https://localhost:8080/v1/chat/completions"),
    ],
)
def test_the_notes_show_a_request(helm: Helm, secret: str, curl: str) -> None:
    notes = helm.run(
        "install", "r", str(CHART), "--dry-run=client", "--namespace", "serving", "--set",
        f"gateway.auth.mode=open,gateway.tls.secretName={secret}",
    )  # fmt: skip
    assert curl in notes
    assert "ask nobody for a key" in notes


def test_the_install_guide_names_values_that_exist() -> None:
    guide = (CHART.parents[1] / "docs" / "install.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = guide.partition("| value |")[2].partition("\n\n")[0]
    named_values = re.findall(r"^\| `([a-zA-Z.]+)`(?:, `([a-zA-Z.]+)`)? \|", table, re.M)
    named_values += [(v,) for v in re.findall(r"--set[= ]([a-zA-Z.]+)=", guide)]
    paths = [path for row in named_values for path in row if path]
    assert len(paths) > 10
    for path in paths:
        at = values
        for step in path.split("."):
            assert step in at, path
            at = at[step]


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_the_roles_are_those_of_the_rules_file(helm: Helm, scope: str) -> None:
    """`shunter doctor` asks for the rights of this file."""
    wanted = yaml.safe_load(rules_path().read_text())
    roles = of_kind(
        helm.template(f"scope={scope}"), "ClusterRole" if scope == "cluster" else "Role"
    )
    for part in ("scheduler", "operator", "removal"):
        suffix = "-serving" if scope == "cluster" else ""
        (role,) = [r for r in roles if r["metadata"]["name"] == f"shunter-{part}{suffix}"]
        own = [r for r in wanted[part] if r.pop("scope", scope) == scope]
        assert role["rules"] == own
