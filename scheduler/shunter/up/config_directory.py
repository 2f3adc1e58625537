"""The directory that the scheduler watches: swapped as a whole, so that it never sees a mixture."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import yaml

from shunter_api.base import API_VERSION
from shunter_api.instances import InstanceEntry
from shunter_scheduler.sources.files import NAMES

INSTANCES = "instances.yaml"


class ConfigDirectory:
    """`path` is a symbolic link to the present version."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "config"
        self._parent = state_dir
        self._version = 0

    def publish(self, files: Iterable[tuple[str, str]], instances: Iterable[InstanceEntry]) -> None:
        """Replaces everything: the user's files, in their order, and the list of instances."""
        self._version += 1
        new = self._parent / f"config.{self._version}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        names: dict[str, str] = {}  # of the copies: the files that people know
        for index, (name, text) in enumerate(files):
            copy = f"{index:03d}-{Path(name).stem}.yaml"
            (new / copy).write_text(text)
            names[copy] = str(Path(name).absolute())
        (new / NAMES).write_bytes(msgspec.json.encode(names))
        (new / INSTANCES).write_text(instance_list(instances))
        link = self._parent / "config.next"
        link.unlink(missing_ok=True)
        link.symlink_to(new.name)
        os.replace(link, self.path)
        for old in self._parent.glob("config.[0-9]*"):  # also of an `up` that was killed
            if old != new:
                shutil.rmtree(old, ignore_errors=True)


def instance_list(instances: Iterable[InstanceEntry]) -> str:
    """The text of an `InstanceList`."""
    return yaml.safe_dump(
        {
            "apiVersion": API_VERSION,
            "kind": "InstanceList",
            "metadata": {"name": "shunter-up"},
            "items": [
                entry.model_dump(mode="json", by_alias=True, exclude_none=True)
                for entry in instances
            ],
        },
        sort_keys=False,
    )
