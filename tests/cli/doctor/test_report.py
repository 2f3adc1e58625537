"""What a doctor asks for, and how its findings are shown."""

import base64
import json
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from shunter.__main__ import build_app
from shunter.config import rules_path
from shunter.doctor.facts import Place
from shunter.doctor.findings import failed, ok, skipped, warning
from shunter.doctor.gather_cluster import account_of
from shunter.doctor.needs import needs, review
from shunter.doctor.report import as_json, failures, render
from shunter.failure import Failure
from shunter_runtime.kube_api import Refused

FINDINGS = [
    ("server", ok("https://a-very-long-host-name.of.a.cloud.example.com:6443 is Kubernetes v1.30")),
    ("rights", failed("may not patch deployments.apps, and more words " * 3, "helm upgrade")),
    ("gpus", warning("gpu-0 without labels", "install feature discovery")),
    ("scheduler", skipped("not from here")),
]


def test_a_report_fits_a_terminal_and_loses_nothing() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(render("release in namespace serving", FINDINGS))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = " ".join(text.split())
    assert "1 ok, 1 warning, 1 failed, 1 skipped" in words
    assert "-> helm upgrade" in words
    assert words.count("may not patch") == 3


def test_json_has_every_finding() -> None:
    report = json.loads(as_json("x", FINDINGS))
    assert report["failed"] == failures(FINDINGS) == 1
    assert [row["state"] for row in report["findings"]] == ["ok", "failed", "warning", "skipped"]
    assert report["findings"][1]["remedy"] == "helm upgrade"


def test_needs_are_the_charts_rules_where_the_release_works() -> None:
    rules = yaml.safe_load(rules_path().read_text())
    wide = {str(r): r for r in needs(rules, "operator", Place("serving", wide=True))}
    narrow = {str(r): r for r in needs(rules, "operator", Place("serving", wide=False))}
    assert wide["patch pods/status"].namespace == ""
    assert narrow["patch pods/status"].namespace == "serving"
    assert wide.keys() - narrow.keys() >= {
        "list customresourcedefinitions.apiextensions.k8s.io",
        "watch customresourcedefinitions.apiextensions.k8s.io",
    }
    assert wide["watch nodes"].optional and not wide["patch pods"].optional
    lease = wide["update leases.coordination.k8s.io/shunter-operator"]
    assert (lease.namespace, lease.name) == ("serving", "shunter-operator")


def test_an_operator_with_webhooks_needs_its_own_secret_and_configurations() -> None:
    rules = yaml.safe_load(rules_path().read_text())
    place = Place("serving", wide=True, webhooks="shunter-webhook-serving")
    more = set(needs(rules, "operator", place)) - set(
        needs(rules, "operator", Place("serving", wide=True))
    )
    assert {(r.resource, r.name, r.namespace) for r in more} == {
        ("secrets", "shunter-webhook", "serving"),
        ("namespaces", "serving", "serving"),
        ("validatingwebhookconfigurations", "shunter-webhook-serving", ""),
        ("mutatingwebhookconfigurations", "shunter-webhook-serving", ""),
    }


def test_a_review_asks_for_one_right_of_one_account() -> None:
    rules = yaml.safe_load(rules_path().read_text())
    rights = needs(rules, "operator", Place("serving", wide=False))
    right = next(r for r in rights if r.resource == "pods/status")
    other = review(right, "system:serviceaccount:serving:shunter-operator")
    assert other["kind"] == "SubjectAccessReview"
    assert other["spec"]["resourceAttributes"] == {
        "resource": "pods", "subresource": "status", "verb": "patch", "namespace": "serving",
    }  # fmt: skip
    assert "system:serviceaccounts:serving" in other["spec"]["groups"]
    own = review(right, "")
    assert own["kind"] == "SelfSubjectAccessReview"
    assert own["spec"].keys() == {"resourceAttributes"}


@pytest.mark.parametrize("text", ["", "Bearer opaque", "Bearer a.b.c", "Basic dTpw"])
def test_who_asks_is_not_guessed(text: str) -> None:
    assert account_of(text) == ""


def test_the_account_of_a_pod_is_in_its_token() -> None:
    account = "system:serviceaccount:serving:shunter-operator"
    claims = base64.urlsafe_b64encode(json.dumps({"sub": account}).encode()).decode().rstrip("=")
    assert account_of(f"Bearer head.{claims}.sign") == account


def test_without_a_cluster_it_says_how_to_look_at_one_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: str
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(build_app(), ["doctor", "--state-dir", str(tmp_path)])
    assert isinstance(result.exception, Failure)
    assert "--server" in result.exception.next_step


def test_an_api_server_that_is_not_there_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path)))
    result = CliRunner().invoke(build_app(), ["doctor", "--json", "--namespace", "serving"])
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)["findings"]
    assert (row["check"], row["state"]) == ("server", "failed")
    assert "kubectl cluster-info" in row["remedy"]


def test_credentials_that_ran_out_are_no_old_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refused(_: object) -> None:
        raise Refused(401, "Unauthorized")

    monkeypatch.setattr("shunter.doctor.gather_cluster.gather", refused)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path)))
    result = CliRunner().invoke(build_app(), ["doctor", "--json", "--namespace", "serving"])
    (row,) = json.loads(result.stdout)["findings"]
    assert "401: Unauthorized" in row["message"] and "run out" in row["remedy"]


def kubeconfig(folder: Path) -> Path:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "current-context": "c",
    }
    file = folder / "config"
    file.write_text(yaml.safe_dump(config))
    return file
