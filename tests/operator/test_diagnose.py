"""Root causes, from what real API servers and engines say."""

from dataclasses import replace
from typing import Any

import pytest

from shunter_operator.controllers_testing import EPOCH
from shunter_operator.diagnose import Cause, cause_of, last_line, refused, worst
from shunter_operator.pods import pod_of
from shunter_operator.values import Pod, Startup, Termination

POD = Pod("p", "serving", "chat", "h100", startup=Startup(budget_s=3595, grace_s=130))
NODES = "0/10 nodes are available: "
SELECTOR = "9 node(s) didn't match Pod's node affinity/selector."


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (f"{NODES}10 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        (
            f"{NODES}2 Insufficient nvidia.com/gpu, 8 node(s) didn't match node selector.",
            "InsufficientGPU",
        ),
        (
            f"{NODES}4 Insufficient nvidia.com/mig-1g.10gb. preemption: 0/10 nodes are available.",
            "InsufficientGPU",
        ),
        (f"{NODES}10 Insufficient memory.", "InsufficientResources"),
        (
            f"{NODES}10 node(s) didn't match Pod's node affinity.",
            "NodeSelectorMatchesNothing",
        ),
        (
            f"{NODES}10 node(s) didn't match Pod's node affinity/selector.",
            "NodeSelectorMatchesNothing",
        ),
        (
            f"{NODES}3 node(s) had taint {{gpu: yes}}, that the pod didn't tolerate, 7 node(s) ...",
            "TaintNotTolerated",
        ),
        (f"{NODES}10 node(s) had untolerated taint {{gpu: yes}}.", "TaintNotTolerated"),
        (
            f"{NODES}1 node(s) had taint {{node.kubernetes.io/not-ready: }}, {SELECTOR}",
            "NodeSelectorMatchesNothing",
        ),
        ('persistentvolumeclaim "weights" not found', "VolumeNotFound"),
        (f"{NODES}10 pod has unbound immediate PersistentVolumeClaims.", "VolumeNotBound"),
        (f"{NODES}10 node(s) had volume node affinity conflict.", "VolumeNotBound"),
        (
            f"{NODES}10 node(s) didn't find available persistent volumes to bind.",
            "VolumeNotBound",
        ),
        ("something new", "Unschedulable"),
    ],
)
def test_why_no_node_takes_a_pod(message: str, reason: str) -> None:
    stuck = replace(POD, scheduled=False, unschedulable_since=EPOCH, unschedulable_message=message)
    cause = cause_of(stuck)
    assert cause is not None and cause.reason == reason
    assert message.removesuffix(".") in cause.message and not cause.fatal


@pytest.mark.parametrize(
    ("ended", "reason", "told"),
    [
        (Termination("OOMKilled", 137, "", 5), "EngineOOM", "memory"),
        (
            Termination("Error", 1, "x\ntorch.OutOfMemoryError: CUDA out of memory.\n", 5),
            "EngineOOM",
            "CUDA out of memory",
        ),
        (
            Termination("Error", 1, "ValueError: No available memory for the cache blocks.", 5),
            "EngineOOM",
            "cache blocks",
        ),
        (
            Termination("Error", 1, "huggingface_hub.errors.GatedRepoError: 401 Client Error.", 5),
            "WeightsUnauthorized",
            "GatedRepoError",
        ),
        (
            Termination("Error", 143, "INFO loading shard 3/9", 3596),
            "ProbeTimeoutWhileLoading",
            "loading shard 3/9",
        ),
        (Termination("Error", 137, "INFO 9 requests run", 9000), "EngineCrashLoop", "9 requests"),
        (Termination("Error", 137, "", 30), "EngineCrashLoop", "exit code 137"),
        (
            Termination("Error", 2, "usage\nunrecognized arguments: --speed-up\n\n", 1),
            "EngineCrashLoop",
            "unrecognized arguments: --speed-up",
        ),
    ],
)
def test_why_an_engine_ended(ended: Termination, reason: str, told: str) -> None:
    cause = cause_of(replace(POD, terminated=ended, restarts=3))
    assert cause is not None and cause.reason == reason and told in cause.message
    assert cause.fatal


def test_the_last_line_has_words() -> None:
    framed = (
        "Usage: x",
        "╭─ Error ─╮",
        "│ No such option: --a (Possible  │",
        "│ options: --b) │",
        "╰─╯",
    )
    assert last_line("\n".join(framed)) == "No such option: --a (Possible options: --b)"
    assert last_line("one\n two \n\n---\n") == "two"
    assert last_line("---\n") == last_line("") == ""


def test_an_engine_has_the_time_to_start_that_its_own_probe_gives() -> None:
    stopped = Termination("Error", 143, "", 12)
    assert reason_of(replace(POD, terminated=stopped)) == "EngineCrashLoop"
    quick = replace(POD, terminated=stopped, startup=Startup(budget_s=10, grace_s=5))
    assert reason_of(quick) == "ProbeTimeoutWhileLoading"
    probe = {"failureThreshold": 3, "periodSeconds": 5, "initialDelaySeconds": 2}
    body = {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "engine", "startupProbe": probe}]},
    }
    assert pod_of(body).startup == Startup(budget_s=12, grace_s=30)
    assert pod_of({"metadata": body["metadata"]}).startup is None


def reason_of(pod: Pod) -> str:
    cause = cause_of(pod)
    assert cause is not None
    return cause.reason


def test_an_image_that_cannot_be_had() -> None:
    waiting = replace(POD, waiting_reason="ErrImagePull", waiting_message="manifest unknown")
    assert cause_of(waiting) == Cause("ImagePullFailed", "ErrImagePull: manifest unknown")


def test_what_serves_or_goes_has_no_cause() -> None:
    ended = Termination("Error", 1, "once", 5)
    assert cause_of(POD) is None
    assert cause_of(replace(POD, ready_since=EPOCH, terminated=ended)) is None
    assert cause_of(replace(POD, deleting=True, terminated=ended)) is None


def test_pods_that_the_server_refuses() -> None:
    def of(message: str) -> dict[str, Any]:
        failed = {"type": "ReplicaFailure", "status": "True", "message": message}
        return {"status": {"conditions": [failed]}}

    quota = refused(of('pods "a" is forbidden: exceeded quota: gpus'))
    assert quota is not None and quota.reason == "QuotaExceeded"
    other = refused(of('pods "a" is forbidden: unable to validate against any policy'))
    assert other is not None and other.reason == "PodsRefused"
    assert refused({"status": {}}) is None


def test_what_waiting_does_not_heal_is_told_first() -> None:
    waits, broken = Cause("InsufficientGPU", "", fatal=False), Cause("WeightsUnauthorized", "")
    assert worst([None, waits, broken]) == broken
    assert worst([None]) is None


def test_a_pod_as_the_server_shows_it() -> None:
    pod = pod_of(
        {
            "metadata": {
                "name": "chat-h100-1",
                "namespace": "serving",
                "labels": {"shunter.dev/pool": "chat", "shunter.dev/profile": "h100"},
                "annotations": {"shunter.dev/drain-since": "2026-01-01T00:00:00Z"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": "n",
                "readinessGates": [{"conditionType": "shunter.dev/in-service"}],
            },
            "status": {
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": "False"},
                ],
                "containerStatuses": [
                    {"name": "sidecar", "restartCount": 9, "state": {}},
                    {
                        "name": "engine",
                        "restartCount": 2,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {
                            "terminated": {
                                "reason": "Error",
                                "exitCode": 1,
                                "message": "boom",
                                "startedAt": "2026-01-01T00:00:00Z",
                                "finishedAt": "2026-01-01T00:00:07Z",
                            }
                        },
                    },
                ],
            },
        }
    )
    assert (pod.pool, pod.profile, pod.scheduled, pod.ready) == ("chat", "h100", True, False)
    assert pod.terminated == Termination("Error", 1, "boom", 7.0)
    assert pod.restarts == 2 and pod.drain_since == EPOCH and pod.gated is False
