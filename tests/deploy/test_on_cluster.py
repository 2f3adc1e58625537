"""From `helm install` to `helm uninstall` on nodes that run pods, with the image of this tree."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cluster_load import chat, explain
from helm_chart import Helm
from helm_release import (
    DEMO,
    PROFILES,
    READY_S,
    REAL_NODE,
    Answer,
    Installed,
    Machine,
    image_settings,
    installed,
    wait_for,
)
from shunter_proto.v1 import scheduler_pb2 as pb

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
REQUESTS = 24
# Everything that a release or its pools may leave; Kubernetes' own objects aside.
KINDS = (
    "deployments,replicasets,pods,services,serviceaccounts,secrets,configmaps,jobs,leases,roles,"
    "rolebindings,poddisruptionbudgets,horizontalpodautoscalers,modelpools,routingpolicies"
)
WIDE_KINDS = (
    "clusterroles,clusterrolebindings,priorityclasses,validatingwebhookconfigurations,"
    "mutatingwebhookconfigurations"
)


def test_each_engine_runs_in_its_own_gpu_pool(release: Installed) -> None:
    nodes = {n["metadata"]["name"]: n["metadata"]["labels"] for n in release.get("nodes")["items"]}
    placed = {
        pod["metadata"]["labels"]["shunter.dev/profile"]: nodes[pod["spec"]["nodeName"]]
        for pod in release.pods("shunter.dev/pool=chat")
    }
    pools = {profile: labels["node-pool"] for profile, labels in placed.items()}
    assert pools == {profile: profile for profile in PROFILES}


def test_who_has_no_key_is_refused(release: Installed) -> None:
    assert release.ask(chat(4), key="").status == 401


def test_load_goes_where_it_is_served_soonest(release: Installed) -> None:
    """By predicted seconds: more than one kind of GPU, and each winner has the lowest score."""
    key = release.key()
    with ThreadPoolExecutor(REQUESTS) as pool:
        texts = [f"Question {n}: " + "why " * 200 for n in range(REQUESTS)]
        answers = list(pool.map(lambda text: release.ask(chat(64, text=text), key), texts))
    assert [a.status for a in answers] == [200] * REQUESTS
    assert all(json.loads(a.text)["choices"][0]["message"]["content"] for a in answers)
    explained = [explain(release, answer.request_id) for answer in answers]
    profiles = Counter(_first(one).winner.split("-")[1] for one in explained)
    assert len(profiles) >= 2 and profiles["h100"] == max(profiles.values()), profiles
    for one, answer in zip(explained, answers, strict=True):
        _check_winner(_first(one))
        _check_place(one, answer)


def _first(explained: pb.ExplainReply) -> pb.ExplainReply.Decision:
    return next(d for d in explained.decisions if d.kind == "dispatch")


def _check_winner(first: pb.ExplainReply.Decision) -> None:
    scores = {c.instance: c.score_s for c in first.candidates if not c.excluded_because}
    assert scores[first.winner] == min(scores.values())
    assert len(first.candidates) == 3  # one that has enough ahead has no score


def _check_place(explained: pb.ExplainReply, answer: Answer) -> None:
    """It came from where the last decision sent it, or where a move came too late from where the
    one before did."""
    sent = [d for d in explained.decisions if d.winner]
    places = [f"chat/{d.winner}" for d in sent]
    assert answer.decision in places[-2 if sent[-1].kind == "move" else -1 :]


def test_the_charts_own_test_passes(release: Installed) -> None:
    assert "Phase:          Succeeded" in release.helm("test", "shunter", "--timeout=120s")


def test_the_job_before_an_upgrade_has_the_rights_that_it_needs(
    release: Installed, helm: Helm, tmp_path: Path
) -> None:
    """Of a cluster-wide release, whose operator would not let others' pools alone."""
    objects = helm.template(
        *image_settings(), f"nodeSelector.{REAL_NODE}=yes", namespace=release.namespace
    )
    hooks = [v for v in objects if "shunter-upgrade" in v["metadata"]["name"]]
    file = tmp_path / "hooks.yaml"
    file.write_text(yaml.safe_dump_all(hooks))
    release.kubectl("apply", f"--filename={file}")
    try:
        release.kubectl("wait", "--for=condition=complete", "job/shunter-upgrade", "--timeout=60s")
    finally:
        release.kubectl("delete", f"--filename={file}")


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_the_server_takes_every_object_there_can_be(
    cluster: Machine, helm: Helm, tmp_path: Path, scope: str
) -> None:
    """As rendered manifests, by server-side apply."""
    version = json.loads(cluster.run(cluster.kubectl, "version", "--output=json"))["serverVersion"]
    file = tmp_path / "manifests.yaml"
    objects = helm.template(
        f"scope={scope}", "demo.enabled=true", "networkPolicy.enabled=true",
        "gateway.autoscaling.enabled=true", "gateway.tls.secretName=cert",
        namespace="default", kube_version=version["gitVersion"],
    )  # fmt: skip
    file.write_text(yaml.safe_dump_all(objects))
    cluster.run(cluster.kubectl, "apply", "--server-side", "--dry-run=server", f"--filename={file}")


def test_removal_leaves_nothing(cluster: Machine) -> None:
    few = ("scheduler.replicas=1", "gateway.replicas=1")
    with installed(cluster, *DEMO, *few) as release:
        wait_for("the demo pool is ready", release.whole, READY_S)
        release.helm("uninstall", "shunter", "--timeout=240s")
        wait_for("everything is gone", lambda: not _left(release), 60.0)


def _left(release: Installed) -> list[str]:
    """Also of what belongs to no namespace: such names tell the release's."""
    items = release.get(KINDS)["items"]
    names = [f"{item['kind']} {item['metadata']['name']}" for item in items]
    wide = release.machine.get(WIDE_KINDS)["items"]
    found = [f"{item['kind']} {item['metadata']['name']}" for item in wide]
    names += [name for name in found if release.namespace in name]
    return [
        n for n in names if not n.endswith((" default", " kube-root-ca.crt")) and "-token-" not in n
    ]
