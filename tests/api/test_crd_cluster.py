"""The definitions on real API servers: one without CEL (1.20) and a current one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl import Server, cluster_server, modern_server
from resource_samples import BY_RULE, BY_SCHEMA, POLICY, POOL, Bad
from shunter_api.crd import files
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "charts/shunter/crds"
NAMES = ("crd/modelpools.shunter.dev", "crd/routingpolicies.shunter.dev")
MANIFESTS = [
    path
    for path in sorted((ROOT / "manifests").rglob("*.yaml"))
    if any(d and d.get("kind") == "ModelPool" for d in yaml.safe_load_all(path.read_text()))
]


def install(server: Server) -> Server:
    """Never removed: other tests, or users, may have resources of these kinds."""
    server.ok("apply", "--validate=false", "-f", str(CRDS))
    server.ok("wait", "--for=condition=Established", "--timeout=30s", *NAMES)
    return server


@pytest.fixture(scope="module")
def server() -> Server:
    return install(cluster_server())


@pytest.fixture(scope="module")
def modern() -> Server:
    return install(modern_server())


@pytest.fixture(scope="module")
def space(server: Server) -> Iterator[str]:
    with server.namespace("shunter-crd") as name:
        yield name


@pytest.fixture
def modern_space(modern: Server, space: str) -> Iterator[str]:
    yield space
    modern.ok("delete", "-n", space, "modelpools.shunter.dev,routingpolicies.shunter.dev", "--all")


def create(server: Server, space: str, thing: dict[str, Any], *flags: str) -> str:
    """What kubectl says, on either stream."""
    done = server.run(
        "create", "-n", space, "--validate=false", *flags, "-f-", text=yaml.safe_dump(thing)
    )
    return done.stdout + done.stderr


def refusal(server: Server, space: str, bad: Bad) -> str:
    said = create(server, space, bad.object, "--dry-run=server")
    assert "is invalid" in said, said
    return " ".join(said.split())


def test_the_definitions_have_no_remarks(server: Server) -> None:
    """The server says by a condition where a schema is not structural."""
    for name in NAMES:
        conditions = {c["type"]: c["status"] for c in server.get(name)["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_rules_can_be_left_out_for_server_side_apply(server: Server) -> None:
    """Servers without CEL refuse that otherwise."""
    text = "---\n".join(files(with_cel=False).values())
    flags = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=false")
    assert "serverside-applied" in server.ok("apply", *flags, "-f-", text=text)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_apply_twice_without_a_change(server: Server, space: str, path: Path) -> None:
    server.ok("apply", "-n", space, "-f", str(path))
    again = server.ok("apply", "-n", space, "-f", str(path)).splitlines()
    assert [line for line in again if not line.endswith("unchanged")] == []


def test_what_the_server_gives_back_means_the_same(server: Server, space: str) -> None:
    """With the server's defaults written out."""
    create(server, space, {**POOL, "metadata": {"name": "back"}})
    given = server.get("-n", space, "smp", "back")
    assert given["spec"]["migration"]["drainTimeout"] == "2m"
    pool, before = parse_object(given), parse_object(POOL)
    assert isinstance(pool, ModelPool)
    assert isinstance(before, ModelPool)
    assert pool.spec == before.spec


@pytest.mark.parametrize("bad", BY_SCHEMA, ids=lambda bad: bad.name)
def test_every_server_refuses_by_schema(server: Server, space: str, bad: Bad) -> None:
    """Servers of 1.20 leave the place in a list out of the field's name."""
    without_places = re.compile(r"\[\d+\]")
    said = without_places.sub("", refusal(server, space, bad))
    assert without_places.sub("", bad.field) in said


@pytest.mark.parametrize("bad", (*BY_SCHEMA, *BY_RULE), ids=lambda bad: bad.name)
def test_a_current_server_refuses_by_rule_too(modern: Server, space: str, bad: Bad) -> None:
    said = refusal(modern, space, bad)
    assert (bad.rule or bad.field) in said


@pytest.mark.parametrize("good", [POOL, POLICY], ids=lambda good: good["kind"])
def test_a_current_server_takes_what_is_right(
    modern: Server, space: str, good: dict[str, Any]
) -> None:
    assert "created" in create(modern, space, good, "--dry-run=server")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_current_server_takes_the_manifests(modern: Server, space: str, path: Path) -> None:
    modern.ok("apply", "-n", space, "--dry-run=server", "--validate=strict", "-f", str(path))


def test_an_unknown_field_is_refused_by_kubectl(modern: Server, space: str) -> None:
    thing = {**POOL, "spec": {**POOL["spec"], "slos": {}}}
    done = modern.run("create", "-n", space, "--dry-run=server", "-f-", text=yaml.safe_dump(thing))
    assert 'unknown field "spec.slos"' in done.stderr


STATUS = {
    "model": "chat",
    "replicas": 3,
    "readyReplicas": 2,
    "desiredReplicas": 3,
    "selector": "shunter.dev/pool=columns",
    "gpuMix": "2xh100",
    "costPerHour": "7.50",
    "policy": "main",
    "serving": {"ttftP95": "420ms", "sloAttainment": "99.2", "queued": 4, "tokensPerSecond": 900},
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "InsufficientGPU",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}


def _patch_status(space: str, name: str) -> tuple[str, ...]:
    patch = yaml.safe_dump({"status": STATUS})
    return (
        "patch",
        "-n",
        space,
        f"smp/{name}",
        "--subresource=status",
        "--type=merge",
        "-p",
        patch,
    )


def test_the_columns_show_the_status(server: Server, space: str) -> None:
    create(server, space, {**POOL, "metadata": {"name": "columns"}})
    server.ok(*_patch_status(space, "columns"))
    head, row = server.ok("get", "-n", space, "smp", "columns", "-o", "wide").splitlines()
    columns = "NAME MODEL READY DESIRED GPU-MIX TTFT-P95 SLO% QUEUE REASON AGE TOK/S COST/H POLICY"
    assert head.split() == columns.split()
    shown = row.split()
    assert shown[:9] == ["columns", "chat", "2", "3", "2xh100", "420ms", "99.2", "4",
                         "InsufficientGPU"]  # fmt: skip
    assert shown[10:] == ["900", "7.50", "main"]


def test_kubectl_scale_writes_replicas_in_manual(server: Server, space: str) -> None:
    manual = {**POOL["spec"], "scaling": {"mode": "Manual"}}
    create(server, space, {**POOL, "metadata": {"name": "manual"}, "spec": manual})
    server.ok("scale", "-n", space, "smp/manual", "--replicas=4")
    assert server.get("-n", space, "smp", "manual")["spec"]["replicas"] == 4
    path = f"/apis/shunter.dev/v1alpha1/namespaces/{space}/modelpools/manual/scale"
    server.ok(*_patch_status(space, "manual"))
    scale = json.loads(server.ok("get", "--raw", path))
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 3, "selector": "shunter.dev/pool=columns"}


def test_kubectl_scale_is_refused_in_auto(modern: Server, modern_space: str) -> None:
    assert "created" in create(modern, modern_space, POOL)
    done = modern.run("scale", "-n", modern_space, "smp/chat", "--replicas=4")
    assert "set scaling.mode to Manual" in done.stderr


def test_kubectl_explain_tells_every_field(modern: Server) -> None:
    told = modern.ok("explain", "smp.spec.profiles.replicas.max")
    assert "absent: as many as `min`" in told
