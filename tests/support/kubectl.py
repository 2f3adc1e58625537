"""API servers as a user meets them: through kubectl."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm_chart import find_tool, kube_tools

TIMEOUT_S = 60.0
UP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Server:
    """One API server."""

    kubeconfig: Path
    program: str

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """kubectl; its exit status is for the caller to judge."""
        return subprocess.run(
            [self.program, "--kubeconfig", str(self.kubeconfig), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def ok(self, *arguments: str, text: str = "") -> str:
        """What kubectl writes; fails the test where kubectl fails."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.ok("get", *arguments, "-o", "yaml"))
        return found

    @contextmanager
    def namespace(self, prefix: str) -> Iterator[str]:
        """A namespace of one's own, removed at the end."""
        name = f"{prefix}-{uuid.uuid4().hex[:6]}"
        self.ok("create", "namespace", name)
        try:
            yield name
        finally:
            self.ok("delete", "namespace", name, "--wait=false")


def cluster_server() -> Server:
    """`$KUBECONFIG`, or the control plane that the cluster tools start; skips without either."""
    named = os.environ.get("KUBECONFIG")
    return Server(Path(named or _tool("up", "--control-plane")), _kubectl())


def modern_server() -> Server:
    """A current API server for custom resources, which knows CEL. Namespaces are the cluster's."""
    if find_tool("modern-crd-server") is None:
        pytest.skip("no current API server: run `modern-crd-server build` of the cluster tools")
    _tool("up", "--control-plane")
    return Server(Path(_tool("modern-crd-server", "up")), _kubectl())


def _tool(name: str, *arguments: str) -> str:
    folder = kube_tools()
    if folder is None:
        pytest.skip("no cluster: set KUBECONFIG, or SHUNTER_KUBE to the cluster tools")
    done = subprocess.run(
        [str(folder / name), *arguments],
        capture_output=True,
        text=True,
        timeout=UP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _kubectl() -> str:
    found = find_tool("kubectl")
    if found is None:
        pytest.skip("no cluster: kubectl is not installed")
    return found
