from pathlib import Path

import pytest

from shunter.up.config_directory import ConfigDirectory
from shunter_api.instances import InstanceEntry
from shunter_api.problems import ConfigurationError
from shunter_api.validate import load_configuration
from shunter_scheduler.sources.files import read_files

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec:
  model: {source: "sim://llama-3.1-8b"}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100}]
"""


def entry(name: str, port: int) -> InstanceEntry:
    values = {"name": name, "pool": "chat", "profile": "h100", "address": f"127.0.0.1:{port}"}
    return InstanceEntry.model_validate(values)


def test_what_is_published_loads_and_replaces_what_was(tmp_path: Path) -> None:
    (tmp_path / "config.7").mkdir()  # of an `up` that was killed
    directory = ConfigDirectory(tmp_path)
    directory.publish([("a.yaml", POOL), ("b.yaml", "")], [entry("a", 1), entry("b", 2)])
    first = load_configuration(read_files([directory.path]))
    directory.publish([("a.yaml", POOL)], [entry("a", 1)])
    second = load_configuration(read_files([directory.path]))
    assert [i.name for i in first.instances] == ["a", "b"]
    assert [i.name for i in second.instances] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "config.2"]


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    directory = ConfigDirectory(tmp_path)
    directory.publish([("x/a.yaml", "# one"), ("y/a.yaml", "# two")], [])
    texts = [text for _, text in read_files([directory.path])]
    assert texts[:2] == ["# one", "# two"]


def test_a_refused_copy_is_called_by_the_users_own_file(tmp_path: Path) -> None:
    directory, own = ConfigDirectory(tmp_path / "state"), tmp_path / "pools.yaml"
    (tmp_path / "state").mkdir()
    directory.publish([(str(own), POOL.replace("h100}]", "h10}]"))], [])
    with pytest.raises(ConfigurationError) as refused:
        load_configuration(read_files([directory.path]))
    assert [problem.place for problem in refused.value.problems] == [f"{own}:7"]
