"""The chart installed on a real cluster with the image of this tree."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from helm_chart import CHART, ROOT, find_tool, kube_tools

POOLS = "h100=1:nvidia.com/gpu=8,a100=1:nvidia.com/gpu=8,l4=2:nvidia.com/gpu=1"
# With a tag of their own several may test different trees on one cluster.
IMAGE = os.environ.get("SHUNTER_E2E_IMAGE", "shunter:e2e")
REAL_NODE = "shunter-e2e"  # label of nodes that run what is scheduled on them
READY_S = 180.0
PROFILES = ("h100", "a100", "l4")  # of the demo's pool
DEMO = ("demo.enabled=true", "demo.placeByGpuLabel=true", "operator.watchNodes=always")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """`decision` is POOL/INSTANCE; `text` a whole answer, or the events of a stream."""

    status: int
    text: str
    request_id: str
    decision: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A cluster of this machine, and the programs that work on it."""

    tools: Path
    helm: str
    kubectl: str
    kubeconfig: str

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that works on it. Without a home kubectl keeps its cache where it stands."""
        return {"KUBECONFIG": self.kubeconfig, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}

    def run(self, *command: str, timeout_s: float = 120.0) -> str:
        """Fails the test where the command does."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=self.environment
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.run(self.kubectl, "get", *arguments, "--output=json"))


def machine() -> Machine:
    """Three GPU pools, the CRDs and the image, which is built but where `$SHUNTER_E2E_IMAGE` names
    one that is there. Skips where they cannot be had."""
    tools, helm, kubectl = kube_tools(), find_tool("helm"), find_tool("kubectl")
    if tools is None:
        pytest.skip("needs nodes that run pods: set SHUNTER_KUBE to the cluster tools")
    if helm is None or kubectl is None:
        pytest.skip("needs helm and kubectl on PATH or in $KUBE_CACHE/bin")
    up = subprocess.run(
        [str(tools / "up"), "--nodes", POOLS], capture_output=True, text=True, timeout=300
    )
    if up.returncode:
        pytest.fail(f"the cluster does not come up: {up.stderr[-2000:]}")
    found = Machine(tools, helm, kubectl, up.stdout.strip())
    _label_real_nodes(found)
    _apply_crds(found)
    if "SHUNTER_E2E_IMAGE" in os.environ:
        return found
    build = [str(tools / "images"), "build", str(ROOT), IMAGE]
    done = subprocess.run(build, capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.fail(f"the image does not build: {done.stderr[-2000:]}")
    return found


def _label_real_nodes(machine: Machine) -> None:
    for node in machine.get("nodes", "--selector=node-type!=fake")["items"]:
        name = node["metadata"]["name"]
        machine.run(machine.kubectl, "label", "--overwrite", "node", name, f"{REAL_NODE}=yes")


def _apply_crds(machine: Machine) -> None:
    command = [sys.executable, "-m", "shunter", "hook", "upgrade"]
    subprocess.run(command, env=machine.environment, check=True, timeout=60)


@dataclass(frozen=True, slots=True)
class Installed:
    machine: Machine
    namespace: str

    def get(self, *arguments: str) -> Any:
        return self.machine.get(*arguments, f"--namespace={self.namespace}")

    def names(self, kind: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.get(kind)["items"]]

    def kubectl(self, *arguments: str, timeout_s: float = 120.0) -> str:
        command = (self.machine.kubectl, f"--namespace={self.namespace}", *arguments)
        return self.machine.run(*command, timeout_s=timeout_s)

    def helm(self, *arguments: str) -> str:
        command = (self.machine.helm, f"--namespace={self.namespace}", *arguments)
        return self.machine.run(*command, timeout_s=300.0)

    def address(self, service: str) -> str:
        return str(self.get("service", service)["spec"]["clusterIP"])

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Those that are Ready and not deleted."""
        found = self.get("pods", f"--selector={selector}")["items"]
        return [p for p in found if "deletionTimestamp" not in p["metadata"] and _is_ready(p)]

    def whole(self) -> bool:
        """The demo's pool and the chart's processes serve, each of them, and nothing leaves."""
        if any(map(_unsettled, self.get("deployments")["items"])):
            return False
        status = self.get("modelpool", "chat").get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        settled = conditions.get("Ready") == "True" and conditions.get("Progressing") == "False"
        return settled and status.get("readyReplicas") == len(PROFILES)

    def fix_replicas(self) -> None:
        """One instance of each profile, whatever the scheduler advises."""
        replicas = {"op": "replace", "value": {"min": 1, "max": 1}}
        patch = [{**replicas, "path": f"/spec/profiles/{n}/replicas"} for n in range(len(PROFILES))]
        self.kubectl("patch", "modelpool", "chat", "--type=json", f"--patch={json.dumps(patch)}")

    def part(self, component: str) -> list[dict[str, Any]]:
        """The Ready pods of a process of the chart."""
        return self.pods(f"app.kubernetes.io/component={component}")

    def kill(self, pod: str, container: str) -> None:
        """SIGKILL of the container's first process, by its node: nobody is told before."""
        found = self.get("pod", pod)
        statuses = {s["name"]: s for s in found["status"]["containerStatuses"]}
        _, _, identity = statuses[container]["containerID"].partition("://")
        self.machine.run(
            str(self.machine.tools / "node"), "exec", found["spec"]["nodeName"],
            *("ctr", "--namespace=k8s.io", "task", "kill", "--signal=SIGKILL", identity),
        )  # fmt: skip

    def condition(self, pool: str, kind: str) -> dict[str, str]:
        """Empty where the operator has not told yet."""
        conditions = self.get("modelpool", pool).get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), {})

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Changed where they are there."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(objects, file)
            file.flush()
            self.kubectl("apply", f"--filename={file.name}")

    def key(self) -> str:
        template = "--output=go-template={{.data.key | base64decode}}"
        return self.kubectl("get", "secret", "shunter-api-key", template)

    def ask(self, body: Mapping[str, Any], key: str, timeout_s: float = 60.0) -> Answer:
        """A chat through the gateway Service."""
        with self.post(self.address("shunter-gateway"), 80, body, key, timeout_s) as reply:
            return Answer(
                status=reply.status,
                text=reply.read().decode(),
                request_id=reply.headers.get("x-shunter-request-id", ""),
                decision=reply.headers.get("x-shunter-decision", ""),
            )

    @contextmanager
    def post(
        self, host: str, port: int, body: Mapping[str, Any], key: str, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """A chat through one gateway. Raises what the connection raises."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        with contextlib.closing(connection):
            headers = {"content-type": "application/json"}
            if key:
                headers["authorization"] = f"Bearer {key}"
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            yield connection.getresponse()


def _unsettled(deployment: Mapping[str, Any]) -> bool:
    """Pods that are not there or not ready, or of an older template, or on their way out."""
    wanted, status = deployment["spec"]["replicas"], deployment["status"]
    counts = (status.get(n, 0) for n in ("replicas", "updatedReplicas", "readyReplicas"))
    return any(count != wanted for count in counts)


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _nothing(release: "Installed") -> None:
    return None


@contextmanager
def installed(
    on: Machine, *settings: str, prepare: Callable[["Installed"], None] = _nothing
) -> Iterator[Installed]:
    """In a namespace of its own, and for that namespace alone. At the end nothing is left.
    `prepare` makes what must be there before."""
    release = Installed(on, f"shunter-e2e-{uuid.uuid4().hex[:8]}")
    flags = [f"--set={setting}" for setting in (*image_settings(), *settings)]
    try:
        prepare(release)
        release.helm(
            "install", "shunter", str(CHART), "--create-namespace", "--skip-crds", "--wait",
            "--timeout=180s", "--set=scope=namespace",
            f"--set=nodeSelector.{REAL_NODE}=yes", *flags,
        )  # fmt: skip
        yield release
    finally:
        _remove(release)


def image_settings() -> tuple[str, str]:
    repository, _, tag = IMAGE.partition(":")
    return f"image.repository={repository}", f"image.tag={tag}"


def _remove(release: Installed) -> None:
    """By the chart's own way: a namespace that is deleted with its operator can be stuck."""
    release.helm("uninstall", "shunter", "--ignore-not-found", "--timeout=240s")
    release.kubectl("delete", "namespace", release.namespace, "--ignore-not-found", "--wait=false")


def wait_for(what: str, holds: Callable[[], T | None], timeout_s: float) -> T:
    """What `holds()` gives once it is true. Fails the test where that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.5)
    return value
