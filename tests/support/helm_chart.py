"""The chart as Helm renders it, and the tools that do so."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "shunter"
TIMEOUT_S = 60.0
# Settings of every part that a release may have.
EVERYTHING = (
    "demo.enabled=true",
    "demo.placeByGpuLabel=true",
    "serviceMonitor.enabled=true",
    "networkPolicy.enabled=true",
    "gateway.autoscaling.enabled=true",
    "gateway.tls.secretName=cert",
    "scheduler.tls.secretName=internal",
    "scheduler.tls.clientSecretName=clients",
)
Object = dict[str, Any]


class RenderRefused(Exception):
    """Helm refused the values; the message is Helm's."""


def kube_tools() -> Path | None:
    """The folder that brings up clusters on this machine, where there is one."""
    named = os.environ.get("SHUNTER_KUBE")
    folder = Path(named) if named else ROOT.parent / "shared" / "kube"
    return folder if (folder / "up").is_file() else None


def find_tool(name: str) -> str | None:
    """A program on PATH, or among the cluster tools' own."""
    cache = Path(os.environ.get("KUBE_CACHE", "~/.cache/kube")).expanduser() / "bin"
    return shutil.which(name) or shutil.which(name, path=str(cache))


@dataclass(frozen=True, slots=True)
class Helm:
    program: str

    def run(self, *arguments: str) -> str:
        """Raises `RenderRefused`."""
        done = subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode:
            raise RenderRefused(done.stderr)
        return done.stdout

    def template(
        self, *settings: str, namespace: str = "serving", kube_version: str = "1.34.0"
    ) -> list[Object]:
        """Every object, of a release called `r`; `settings` are `--set`s.

        Raises `RenderRefused`.
        """
        flags = [f"--set={setting}" for setting in settings]
        flags.append(f"--kube-version={kube_version}")
        text = self.run("template", "r", str(CHART), "--namespace", namespace, *flags)
        return [value for value in yaml.safe_load_all(text) if value]


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [value for value in objects if value["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = [v for v in of_kind(objects, kind) if v["metadata"]["name"] == name]
    return found


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The spec of every pod that the objects are or make, by the object's name."""
    for value in objects:
        spec = value.get("spec", {})
        name = f"{value['kind']} {value['metadata']['name']}"
        if value["kind"] == "Pod":
            yield name, spec
        elif "template" in spec:
            yield name, spec["template"]["spec"]
