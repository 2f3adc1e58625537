"""What becomes of streams on a cluster when its processes are killed, stopped and replaced."""

import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from cluster_load import Gateway, Stream, explain, load, status, texts, undisturbed, within
from helm_chart import CHART
from helm_release import PROFILES, READY_S, Installed, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ENGINES = "shunter.dev/pool=chat"
PROMISED_S = 5.0  # after a gateway's end nothing of its requests is left
LONG = 2500  # tokens of streams that outlast a gateway's end
ROLLOUT_S = 150.0
MOVED = r'shunter_gateway_moves_total{[^}]*outcome="moved"[^}]*}'
Pod = Mapping[str, Any]


@pytest.fixture(autouse=True)
def whole_again(release: Installed) -> Iterator[None]:
    yield
    wait_for("the release is whole again", release.whole, READY_S)


def names(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def engine_on(release: Installed, profile: str) -> str:
    (found,) = names(release.pods(f"{ENGINES},shunter.dev/profile={profile}"))
    return found


def test_streams_outlive_the_gateways_that_carry_them(
    release: Installed, expected: Mapping[str, str]
) -> None:
    """A rollout of the gateways replaces every pod; each lets its answers finish."""
    old = names(release.part("gateway"))
    with load(Gateway.service(release), expected):
        release.kubectl("rollout", "restart", "deployment/shunter-gateway")
        release.kubectl("rollout", "status", "deployment/shunter-gateway", "--timeout=150s")
        wait_for("the old gateways are gone", lambda: not old & set(release.names("pods")), 90.0)


def holder(release: Installed, lease: str) -> str:
    """The pod that leads."""
    identity = release.get("lease", lease)["spec"]["holderIdentity"]
    return str(identity).partition("_")[0]


def leader(release: Installed) -> tuple[str, str]:
    return holder(release, "shunter-scheduler"), "scheduler"


def operator(release: Installed) -> tuple[str, str]:
    return holder(release, "shunter-operator"), "operator"


def engine(release: Installed) -> tuple[str, str]:
    return engine_on(release, "h100"), "engine"


@pytest.mark.parametrize("victim", [leader, operator, engine])
def test_streams_outlive_a_process_that_is_killed(
    release: Installed, expected: Mapping[str, str], victim: Callable[[Installed], tuple[str, str]]
) -> None:
    """SIGKILL: the container's process is gone at once, and nobody is told before."""
    pod, container = victim(release)
    term = status(release).term
    with load(Gateway.service(release), expected) as running:
        if victim is engine:
            assert any(s.decision == f"chat/{pod}" for s in running.running()), "none runs there"
        release.kill(pod, container)
        wait_for("it is started again", lambda: restarts(release, pod) > 0, 60.0)
        if victim is leader:
            wait_for("another leads", lambda: status(release).term > term, 30.0)
    if victim is engine:
        moved = [s for s in running.streams if s.decision == f"chat/{pod}"]
        resumed = [d.kind for s in moved for d in explain(release, s.request_id).decisions]
        assert "resume" in resumed


def restarts(release: Installed, pod: str) -> int:
    statuses = release.get("pod", pod)["status"]["containerStatuses"]
    return sum(one["restartCount"] for one in statuses)


def test_streams_outlive_an_engine_whose_pod_is_deleted_by_force(
    release: Installed, expected: Mapping[str, str]
) -> None:
    victim = engine_on(release, "h100")
    with load(Gateway.service(release), expected) as running:
        assert any(s.decision == f"chat/{victim}" for s in running.running()), "none runs there"
        release.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        wait_for(
            "another takes its place",
            lambda: names(release.pods(f"{ENGINES},shunter.dev/profile=h100")) - {victim},
            READY_S,
        )


def test_a_killed_gateway_breaks_its_own_connections_and_no_others(release: Installed) -> None:
    """What it had asked of engines is aborted, and the scheduler's books are right again."""
    expected = undisturbed(Gateway.service(release), tokens=LONG)
    within("nothing runs yet", lambda: _in_engines(release) == 0, 10.0)
    victim, other = release.part("gateway")
    key = release.key()
    lost, kept = [Stream(t) for t in texts(4)], [Stream(t) for t in texts(4)]
    with ThreadPoolExecutor(8) as pool:
        for pod, streams in ((victim, lost), (other, kept)):
            gateway = Gateway(release, pod["status"]["podIP"], 8080, key)
            for one in streams:
                pool.submit(gateway.read, one, "chat", LONG)
        wait_for("streams run", lambda: all(s.begun for s in lost + kept), 60.0)
        assert (_in_engines(release), _in_ledger(release)) == (8, 8)
        release.kill(victim["metadata"]["name"], "gateway")
        killed = time.monotonic()
        within("its engine work is aborted", lambda: _in_engines(release) == 4, PROMISED_S)
        remaining = PROMISED_S - (time.monotonic() - killed)
        within("the ledger is freed", lambda: _in_ledger(release) == 4, remaining)
        assert not any(s.complete for s in kept), "the streams were too short"
    assert not any(s.complete for s in lost)
    assert [trouble for s in kept if (trouble := s.trouble(expected))] == []
    wait_for("nothing runs any more", lambda: _in_ledger(release) == 0, 30.0)
    wait_for("both gateways are there", lambda: status(release).gateways == 2, READY_S)


def _in_engines(release: Installed) -> int:
    """Requests that the engines themselves say they have."""
    total = 0.0
    for pod in release.pods(ENGINES):
        found = _samples(pod, 8000, "vllm:num_requests_(?:running|waiting)")
        assert len(found) == 2, f"no metrics of {pod['metadata']['name']}"
        total += sum(found)
    return int(total)


def _moved(release: Installed) -> float:
    """As gateways count moves: a scheduler that takes over counts from nothing."""
    found = [_samples(pod, 8080, MOVED) for pod in release.part("gateway")]
    return sum(map(sum, found))


def _samples(pod: Pod, port: int, pattern: str) -> list[float]:
    """The values of a pod's metrics whose name, labels included, begins with the pattern."""
    url = f"http://{pod['status']['podIP']}:{port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as reply:
        text = reply.read().decode()
    return [float(v) for v in re.findall(rf"^{pattern}(?:{{[^}}]*}})? (\S+)$", text, re.M)]


def _in_ledger(release: Installed) -> int:
    told = status(release)
    return sum(i.running for i in told.instances) + sum(p.waiting for p in told.pools)


def test_streams_outlive_an_upgrade_of_the_release(
    release: Installed, expected: Mapping[str, str]
) -> None:
    """Every pod of the chart is another one afterwards."""
    parts = ("operator", "scheduler", "gateway")
    old = {name for part in parts for name in names(release.part(part))}
    changed = [f"--set={part}.podAnnotations.upgraded=yes" for part in parts]
    with load(Gateway.service(release), expected):
        release.helm(
            "upgrade", "shunter", str(CHART), "--reuse-values", "--skip-crds", "--wait",
            "--timeout=180s", *changed,
        )  # fmt: skip
        wait_for("all are replaced", lambda: not old & set(release.names("pods")), ROLLOUT_S)
    release.fix_replicas()


def test_streams_outlive_a_rollout_of_the_engines(
    release: Installed, expected: Mapping[str, str]
) -> None:
    """A changed environment is another revision of the pods, but not of the model: requests are
    moved."""
    old = names(release.pods(ENGINES))
    before = _moved(release)

    def replaced() -> bool:
        pods = release.get("pods", f"--selector={ENGINES}")["items"]
        return not old & names(pods) and len(release.pods(ENGINES)) == len(PROFILES)

    with load(Gateway.service(release), expected):
        _set_variable(release, uuid.uuid4().hex)  # to stay: nobody reads it
        wait_for("every engine pod is another", replaced, ROLLOUT_S)
    assert _moved(release) > before


def _set_variable(release: Installed, value: str) -> None:
    patch = yaml.safe_dump({"spec": {"engine": {"env": [{"name": "E2E", "value": value}]}}})
    release.kubectl("patch", "modelpool", "chat", "--type=merge", f"--patch={patch}")
