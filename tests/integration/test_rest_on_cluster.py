"""What a cluster hears of operator and scheduler while nothing changes: the benchmark counts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kube_cluster import kubeconfig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "reconcile.py"
SIZE = ("--pools", "8", "--pods", "2", "--changes", "4", "--rest", "25", "--settle", "12")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("rest") / "report.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *SIZE, "--json", str(file)],
        env={**os.environ, "KUBECONFIG": kubeconfig()},
        capture_output=True,
        text=True,
        timeout=420,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("process", ["operator", "scheduler"])
def test_at_rest_leases_are_renewed_and_nothing_else(report: dict[str, Any], process: str) -> None:
    """A watch ends by itself now and then, and begins again."""
    calls = report["rest"][process]["calls"]
    others = [kind for kind in calls if kind != "update leases" and not kind.startswith("watch ")]
    assert others == []
    assert 0 < calls["update leases"] < 60, "a leader renews its Lease every two seconds"


def test_a_change_is_written_once(report: dict[str, Any]) -> None:
    """One Deployment each, and no other object of the pool."""
    calls = report["change_calls"]
    assert calls["patch deployments"] == 1
    written = {kind for kind in calls if kind.startswith(("patch ", "create ", "delete "))}
    assert written <= {
        "patch deployments",
        "patch modelpools/status",
        "patch pods",
        "patch pods/status",
        "create events",
    }
