"""Every sample of manifests/ is right, listed, and runs in a pod where it is for clusters."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from kubectl import Server, cluster_server, modern_server
from pod_security import violations as pod_violations
from shunter.__main__ import build_app
from shunter_api.crd import modelpools, routingpolicies
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_operator.engines import unsupported
from shunter_operator.manifests import pod_template
from shunter_operator.values import Desired, Environment
from structural import violations

FOLDER = Path(__file__).resolve().parents[2] / "manifests"
CRDS = FOLDER.parent / "charts" / "shunter" / "crds"
SAMPLES = sorted(FOLDER.glob("*.yaml"))
ONE_MACHINE = {"llamacpp.yaml"}  # the file is for `shunter up`; a cluster needs an image
ENVIRONMENT = Environment(image="shunter:1")


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def schema_of(kind: str) -> dict[str, Any]:
    definition = modelpools() if kind == "ModelPool" else routingpolicies()
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_command_line_calls_it_valid(path: Path) -> None:
    result = CliRunner().invoke(build_app(), ["validate", str(path)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_schema_takes_it(path: Path) -> None:
    for document in documents(path):
        assert violations(document, schema_of(document["kind"])) == []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_operator_can_make_restricted_pods_of_it(path: Path) -> None:
    pools = [d for d in documents(path) if d["kind"] == "ModelPool"]
    for body in pools:
        pool = parse_object(body)
        assert isinstance(pool, ModelPool)
        if path.name not in ONE_MACHINE:
            assert unsupported(pool, ENVIRONMENT) is None
        for profile in pool.profiles:
            template = pod_template(Desired(pool, "uid"), profile, ENVIRONMENT)
            assert pod_violations(template["spec"]) == [], profile.name


def test_the_index_lists_every_sample_with_its_length() -> None:
    text = (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\) \| (\d+) \| \S", text, re.M)
    lengths = {path.name: len(path.read_text().splitlines()) for path in SAMPLES}
    assert {name: int(lines) for name, link, lines in rows if name == link} == lengths


def test_the_least_takes_twelve_lines() -> None:
    lines = (FOLDER / "minimal.yaml").read_text().splitlines()
    assert len(lines) <= 12
    assert not any(line.lstrip().startswith(("#", "{")) for line in lines)


@pytest.fixture(scope="module")
def server() -> Server:
    return cluster_server()


@pytest.mark.cluster
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_an_api_server_takes_it(server: Server, path: Path) -> None:
    """With all that admission says about it; nothing is kept."""
    said = server.ok("apply", "-n", "default", "--dry-run=server", "-f", str(path))
    assert said.count("(server dry run)") == len(documents(path))


@pytest.fixture(scope="module")
def modern() -> Server:
    found = modern_server()
    found.ok("apply", "--validate=false", "-f", str(CRDS))
    found.ok("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return found


@pytest.mark.cluster
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_current_server_takes_it_by_every_rule(modern: Server, path: Path) -> None:
    """One that knows CEL, and refuses fields that nobody knows."""
    flags = ("--dry-run=server", "--validate=strict")
    said = modern.ok("apply", "-n", "default", *flags, "-f", str(path))
    assert said.count("(server dry run)") == len(documents(path))
