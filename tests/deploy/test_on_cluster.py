"""From `helm install` to `helm uninstall` on nodes that run pods, with the image of this tree."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from helm_chart import Helm
from helm_release import REAL_NODE, Answer, Installed, Machine, installed, machine, wait_for
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
READY_S = 120.0
REQUESTS = 24
STREAMS, TOKENS = 8, 1000
STARTED_S = 1.0  # by then every stream has begun to answer
DEMO = ("demo.enabled=true", "demo.placeByGpuLabel=true", "gateway.drainDelaySeconds=1")
# Everything that a release or its pools may leave; Kubernetes' own objects aside.
KINDS = (
    "deployments,replicasets,pods,services,serviceaccounts,secrets,configmaps,jobs,leases,roles,"
    "rolebindings,poddisruptionbudgets,horizontalpodautoscalers,modelpools,routingpolicies"
)


@pytest.fixture(scope="module")
def cluster() -> Machine:
    found = machine()
    command = [sys.executable, "-m", "shunter", "hook", "upgrade"]
    subprocess.run(command, env={"KUBECONFIG": found.kubeconfig}, check=True, timeout=60)
    return found


@pytest.fixture(scope="module")
def release(cluster: Machine) -> Iterator[Installed]:
    with installed(cluster, *DEMO) as found:
        wait_for("the demo pool is ready", lambda: _ready(found), READY_S)
        yield found


def _ready(release: Installed) -> bool:
    status = release.get("modelpool", "chat").get("status", {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    return conditions.get("Ready") == "True" and status.get("readyReplicas") == 3


def _chat(tokens: int, *, stream: bool = False, text: str = "hi") -> dict[str, object]:
    """Exactly so many tokens, and always the same."""
    return {
        "model": "chat",
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "seed": 7,
        "max_tokens": tokens,
        "min_tokens": tokens,
    }


def _explain(release: Installed, request_id: str) -> pb.ExplainReply:
    """From the scheduler that leads: each new connection comes to one of the two."""

    def ask() -> pb.ExplainReply | None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"{release.address('shunter-scheduler')}:50051"
        with grpc.insecure_channel(address, options=options) as channel:
            stub = pb_grpc.SchedulerStub(channel)
            try:
                return stub.Explain(pb.ExplainRequest(request_id=request_id), timeout=5)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return None
                raise

    return wait_for("the leader explains", ask, 20.0)


def test_each_engine_runs_in_its_own_gpu_pool(release: Installed) -> None:
    pods = release.get("pods", "--selector=shunter.dev/pool=chat")["items"]
    where = {p["metadata"]["labels"]["shunter.dev/profile"]: p["spec"]["nodeName"] for p in pods}
    assert where == {"h100": "h100-0", "a100": "a100-0", "l4": "l4-0"}


def test_who_has_no_key_is_refused(release: Installed) -> None:
    assert release.ask(_chat(4), key="").status == 401


def test_load_goes_where_it_is_served_soonest(release: Installed) -> None:
    """By predicted seconds: more than one kind of GPU, and each winner has the lowest score."""
    key = release.key()
    with ThreadPoolExecutor(REQUESTS) as pool:
        texts = [f"Question {n}: " + "why " * 200 for n in range(REQUESTS)]
        answers = list(pool.map(lambda text: release.ask(_chat(64, text=text), key), texts))
    assert [a.status for a in answers] == [200] * REQUESTS
    assert all(json.loads(a.text)["choices"][0]["message"]["content"] for a in answers)
    profiles = Counter(a.decision.removeprefix("chat/").split("-")[1] for a in answers)
    assert len(profiles) >= 2 and profiles["h100"] == max(profiles.values()), profiles
    for answer in answers:
        _check_winner(_explain(release, answer.request_id), answer)


def _check_winner(explained: pb.ExplainReply, answer: Answer) -> None:
    first = next(d for d in explained.decisions if d.kind == "dispatch")
    assert answer.decision == f"chat/{first.winner}"
    scores = {c.instance: c.score_s for c in first.candidates if not c.excluded_because}
    assert scores[first.winner] == min(scores.values())
    assert len(scores) == 3


@pytest.fixture(scope="module")
def undisturbed(release: Installed) -> str:
    """What every stream must say."""
    return _content(release.ask(_chat(TOKENS, stream=True), release.key()).text)


@contextmanager
def _streaming(release: Installed, expected: str) -> Iterator[list[Answer]]:
    """Streams run meanwhile; each must come to its end, with the text that it always has. The
    list is filled at the end."""
    key, body = release.key(), _chat(TOKENS, stream=True)
    answers: list[Answer] = []
    with ThreadPoolExecutor(STREAMS) as pool:
        asked = [pool.submit(release.ask, body, key) for _ in range(STREAMS)]
        time.sleep(STARTED_S)
        yield answers
        assert not any(one.done() for one in asked), "the streams were too short"
        answers += [one.result() for one in asked]
    assert all(a.status == 200 and a.text.rstrip().endswith("data: [DONE]") for a in answers)
    assert {_content(a.text) for a in answers} == {expected}


def test_streams_outlive_the_gateways_that_carry_them(release: Installed, undisturbed: str) -> None:
    """A rollout of the gateways replaces every pod; each lets its answers finish."""
    gateways = {n for n in release.names("pods") if n.startswith("shunter-gateway")}
    with _streaming(release, undisturbed):
        release.kubectl("rollout", "restart", "deployment/shunter-gateway")
    release.kubectl("rollout", "status", "deployment/shunter-gateway", "--timeout=120s")
    wait_for("the old gateways are gone", lambda: not gateways & set(release.names("pods")), 90.0)


def _leader(release: Installed) -> str:
    holder = release.get("lease", "shunter-scheduler")["spec"]["holderIdentity"]
    return str(holder).partition("_")[0]


def _engine(release: Installed) -> str:
    return next(name for name in release.names("pods") if name.startswith("chat-h100"))


def _operator(release: Installed) -> str:
    return next(name for name in release.names("pods") if name.startswith("shunter-operator"))


@pytest.mark.parametrize("victim", [_leader, _engine, _operator])
def test_streams_outlive_a_killed(
    release: Installed, undisturbed: str, victim: Callable[[Installed], str]
) -> None:
    with _streaming(release, undisturbed) as answers:
        name = victim(release)
        release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    if victim is _engine:
        assert any(a.decision == f"chat/{name}" for a in answers), "no stream ran there"
    wait_for("the pool is whole again", lambda: _ready(release), READY_S)


def _content(events: str) -> str:
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def test_the_charts_own_test_passes(release: Installed) -> None:
    assert "Phase:          Succeeded" in release.helm("test", "shunter", "--timeout=120s")


def test_the_job_before_an_upgrade_has_the_rights_that_it_needs(
    release: Installed, helm: Helm, tmp_path: Path
) -> None:
    """Of a cluster-wide release, whose operator would not let others' pools alone."""
    objects = helm.template(
        "image.tag=e2e", f"nodeSelector.{REAL_NODE}=yes", namespace=release.namespace
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
    with installed(cluster, *DEMO) as release:
        wait_for("the demo pool is ready", lambda: _ready(release), READY_S)
        release.helm("uninstall", "shunter", "--timeout=240s")
        wait_for("everything is gone", lambda: not _left(release), 60.0)


def _left(release: Installed) -> list[str]:
    items = release.get(KINDS)["items"]
    names = (f"{item['kind']} {item['metadata']['name']}" for item in items)
    return [
        n for n in names if not n.endswith((" default", " kube-root-ca.crt")) and "-token-" not in n
    ]
