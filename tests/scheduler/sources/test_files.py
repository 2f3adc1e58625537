"""Hot reload over real files."""

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

import pytest

from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.sources.files import ConfigRefused, FileSource, read_files

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec:
  model: {source: "sim://llama-3.1-8b", aliases: [one]}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100}]
"""
INSTANCES = """\
apiVersion: shunter.dev/v1alpha1
kind: InstanceList
items: [{name: a, pool: chat, profile: h100, address: "127.0.0.1:1"}]
"""


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


class Follow:
    """A source and the next thing that it says."""

    def __init__(self, *paths: Path) -> None:
        self.source = FileSource(paths, interval_s=0.02)
        self._changes = self.source.changes()

    async def __aenter__(self) -> "Follow":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._changes.aclose()

    async def next(self) -> Topology | ConfigRefused:
        async with asyncio.timeout(10):
            return await anext(self._changes)

    async def topology(self) -> Topology:
        found = await self.next()
        assert isinstance(found, Topology), found
        return found

    async def refused(self) -> str:
        found = await self.next()
        assert isinstance(found, ConfigRefused), found
        return str(found)


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    path = tmp_path / "pool.yaml"
    path.write_text(POOL)
    return path


async def test_an_edit_gives_a_new_topology(pool_file: Path) -> None:
    async with Follow(pool_file) as follow:
        first = await follow.topology()
        write(pool_file, POOL.replace("[one]", "[two]"))
        second = await follow.topology()
    assert (first.version, second.version) == (1, 2)
    assert second.pools[0].model_names == ("chat", "two")


async def test_a_bad_edit_is_refused_once_and_mended_by_the_next(pool_file: Path) -> None:
    async with Follow(pool_file) as follow:
        await follow.topology()
        write(pool_file, POOL.replace("simulated", "simulatd"))
        assert await follow.refused() == follow.source.config_error
        assert f"{pool_file}:6: spec.engine.type: must be one of" in follow.source.config_error
        write(pool_file, POOL)
        assert (await follow.topology()).version == 2
        assert follow.source.config_error == ""


async def test_a_removed_file_is_refused(pool_file: Path) -> None:
    async with Follow(pool_file) as follow:
        await follow.topology()
        remove(pool_file)
        assert "No such file" in await follow.refused()


async def test_a_bad_start_is_refused_too(tmp_path: Path) -> None:
    async with Follow(tmp_path / "missing.yaml") as follow:
        assert "missing.yaml: cannot be read" in await follow.refused()
        (tmp_path / "missing.yaml").write_text(POOL)
        assert (await follow.topology()).version == 1


async def test_files_come_and_go_in_a_directory(tmp_path: Path, pool_file: Path) -> None:
    async with Follow(tmp_path) as follow:
        assert (await follow.topology()).instances == ()
        (tmp_path / ".hidden.yaml").write_text("not: ours")
        (tmp_path / "notes.txt").write_text("not: ours")
        (tmp_path / "instances.yaml").write_text(INSTANCES)
        (instance,) = (await follow.topology()).instances
        assert (instance.engine_type, instance.address) == ("simulated", "127.0.0.1:1")
        (tmp_path / "instances.yaml").unlink()
        assert (await follow.topology()).instances == ()


async def test_the_symlink_swap_of_a_mounted_config_map(tmp_path: Path) -> None:
    def publish(version: int, text: str) -> None:
        data = tmp_path / f"..{version}"
        data.mkdir()
        (data / "pool.yaml").write_text(text)
        os.symlink(data.name, tmp_path / "..data_tmp")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    publish(1, POOL)
    os.symlink("..data/pool.yaml", tmp_path / "pool.yaml")
    async with Follow(tmp_path) as follow:
        assert (await follow.topology()).pools[0].model_names == ("chat", "one")
        publish(2, POOL.replace("[one]", "[two]"))
        assert (await follow.topology()).pools[0].model_names == ("chat", "two")


async def test_a_file_that_is_being_written_is_not_read_half() -> None:
    halves = iter(["", POOL[:50], POOL[:90], POOL, POOL])

    def read(_: object) -> tuple[tuple[str, str], ...]:
        return (("pool.yaml", next(halves, POOL)),)

    source = FileSource([], interval_s=0.01, read=read)
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        assert isinstance(await anext(changes), Topology)


async def test_not_text_and_too_large_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "b.yaml").write_bytes(b"#" * (5 * 1024 * 1024))
    async with Follow(tmp_path) as follow:
        refused = await follow.refused()
    assert "a.yaml:2: is not UTF-8" in refused
    assert "b.yaml: is larger than" in refused


async def test_a_directory_without_pools_is_an_empty_configuration(tmp_path: Path) -> None:
    async with Follow(tmp_path) as follow:
        assert (await follow.topology()).pools == ()


def test_files_of_a_directory_are_called_as_its_list_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# a")
    (tmp_path / "b.yaml").write_text("# b")
    (tmp_path / "names.json").write_text('{"a.yaml": "/home/me/pools.yaml"}')
    named = [("/home/me/pools.yaml", "# a"), (str(tmp_path / "b.yaml"), "# b")]
    assert list(read_files([tmp_path])) == named
    (tmp_path / "names.json").write_text('["broken"]')
    assert [name for name, _ in read_files([tmp_path])] == [
        str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"),
    ]  # fmt: skip
