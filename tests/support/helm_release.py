"""The chart installed on a real cluster with the image of this tree."""

import contextlib
import http.client
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from helm_chart import CHART, ROOT, find_tool, kube_tools

POOLS = "h100=1:nvidia.com/gpu=8,a100=1:nvidia.com/gpu=8,l4=1:nvidia.com/gpu=1"
IMAGE = "shunter:e2e"
REAL_NODE = "shunter-e2e"  # label of nodes that run what is scheduled on them
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

    def run(self, *command: str, timeout_s: float = 120.0) -> str:
        """Fails the test where the command does."""
        env = {"KUBECONFIG": self.kubeconfig, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=env)
        if done.returncode:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.run(self.kubectl, "get", *arguments, "--output=json"))


def machine() -> Machine:
    """Three GPU pools and the image. Skips where they cannot be had."""
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
    build = [str(tools / "images"), "build", str(ROOT), IMAGE]
    done = subprocess.run(build, capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.fail(f"the image does not build: {done.stderr[-2000:]}")
    for node in found.get("nodes", "--selector=node-type!=fake")["items"]:
        name = node["metadata"]["name"]
        found.run(kubectl, "label", "--overwrite", "node", name, f"{REAL_NODE}=yes")
    return found


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

    def key(self) -> str:
        template = "--output=go-template={{.data.key | base64decode}}"
        return self.kubectl("get", "secret", "shunter-api-key", template)

    def ask(self, body: Mapping[str, Any], key: str, timeout_s: float = 60.0) -> Answer:
        """A chat through the gateway Service."""
        connection = http.client.HTTPConnection(
            self.address("shunter-gateway"), 80, timeout=timeout_s
        )
        with contextlib.closing(connection):
            headers = {"content-type": "application/json"}
            if key:
                headers["authorization"] = f"Bearer {key}"
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            reply = connection.getresponse()
            return Answer(
                status=reply.status,
                text=reply.read().decode(),
                request_id=reply.headers.get("x-shunter-request-id", ""),
                decision=reply.headers.get("x-shunter-decision", ""),
            )


@contextmanager
def installed(on: Machine, *settings: str) -> Iterator[Installed]:
    """In a namespace of its own, and for that namespace alone. At the end nothing is left."""
    release = Installed(on, f"shunter-e2e-{uuid.uuid4().hex[:8]}")
    flags = [f"--set={setting}" for setting in settings]
    try:
        release.helm(
            "install", "shunter", str(CHART), "--create-namespace", "--skip-crds", "--wait",
            "--timeout=180s", "--set=scope=namespace", "--set=image.repository=shunter",
            "--set=image.tag=e2e", f"--set=nodeSelector.{REAL_NODE}=yes", *flags,
        )  # fmt: skip
        yield release
    finally:
        _remove(release)


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
