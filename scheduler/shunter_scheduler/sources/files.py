"""The configuration from YAML files, followed while they change.

Content is compared, not times or inodes: that sees editors that write in place, renames over a file
and the symlink swaps of mounted ConfigMaps alike. A bad edit is refused; what ran before goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from shunter_api.problems import ConfigurationError, Problem
from shunter_api.validate import Configuration, Known, load_configuration
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.sources.feasible import infeasible

# What this scheduler can do with a configuration.
KNOWN = Known(pool_check=infeasible)

NAMES = "names.json"
"""In a directory: the names that its files are reported by, for one that holds copies."""

MAX_FILES = 1000
MAX_FILE_BYTES = 4 * 1024 * 1024

Files = tuple[tuple[str, str], ...]  # (name, text) of each
Contents = Files | ConfigurationError
Reader = Callable[[Sequence[Path]], Files]


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """An edit that cannot be used, with all that is wrong with it."""

    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class FileSource:
    """Watches files, and the `*.yaml` and `*.yml` in directories."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        interval_s: float = 0.5,
        read: Reader | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._interval_s = interval_s
        self._read = read or read_files
        self._log = structlog.get_logger(source="files")
        self.config_error = ""  # the refused edit that stands, empty if none

    async def changes(self) -> AsyncGenerator[Topology | ConfigRefused]:
        """What the files hold now, then again after each change. Never ends by itself."""
        version = 0
        contents = watch_files(self._paths, self._interval_s, self._read)
        async with aclosing(contents):
            async for found in contents:
                outcome = self._outcome(found, version + 1)
                if isinstance(outcome, Topology):
                    version = outcome.version
                yield outcome

    def _outcome(self, found: Contents, version: int) -> Topology | ConfigRefused:
        try:
            if isinstance(found, ConfigurationError):
                raise found
            topology = topology_of(load_configuration(found, KNOWN), version)
        except ConfigurationError as error:
            refused = ConfigRefused(error.problems)
            self.config_error = str(refused)
            for problem in error.problems:
                self._log.error(
                    "configuration refused", place=problem.place, field=problem.field,
                    reason=problem.message,
                )  # fmt: skip
            return refused
        self.config_error = ""
        self._log.info("configuration loaded", version=version, pools=len(topology.pools))
        return topology


async def watch_files(
    paths: Sequence[Path], interval_s: float, read: Reader
) -> AsyncGenerator[Contents]:
    """The content of the files, and again after each change, errors of reading included.

    What changed must look the same twice in a row: a file half written is not read.
    """
    seen: Contents | None = None
    while True:
        found = await _look(paths, read)
        if not _same(found, seen):
            await asyncio.sleep(interval_s / 10)
            if _same(await _look(paths, read), found):
                seen = found
                yield found
        await asyncio.sleep(interval_s)


async def _look(paths: Sequence[Path], read: Reader) -> Contents:
    try:
        return await asyncio.to_thread(read, paths)
    except ConfigurationError as error:
        return error


def topology_of(configuration: Configuration, version: int) -> Topology:
    """A configuration as the core sees it."""
    engine_types = {pool.name: pool.engine_type for pool in configuration.pools}
    return Topology(
        version=version,
        pools=configuration.pools,
        policies=configuration.policies,
        instances=tuple(
            Instance(
                name=entry.name,
                pool=entry.pool,
                profile=entry.profile,
                address=entry.address,
                engine_type=entry.engine_type or engine_types[entry.pool],
            )
            for entry in configuration.instances
        ),
    )


def read_files(paths: Sequence[Path]) -> Files:
    """Raises `ConfigurationError` where something cannot be read, or is far too large."""
    problems: list[Problem] = []
    files: list[tuple[str, str]] = []
    for path, name in _expand(paths, problems):
        try:
            with path.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                message = f"is larger than {MAX_FILE_BYTES} bytes"
                problems.append(Problem(name, 0, "", message))
            files.append((name, content.decode()))
        except OSError as error:
            problems.append(Problem(name, 0, "", f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            problems.append(Problem(name, line, "", "is not UTF-8 text"))
    if problems:
        raise ConfigurationError(tuple(problems))
    return tuple(files)


def _expand(paths: Sequence[Path], problems: list[Problem]) -> list[tuple[Path, str]]:
    """Each file with the name that it is reported by."""
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not path.is_dir():
            found.append((path, str(path)))
            continue
        try:
            inside = sorted(
                child
                for child in path.iterdir()
                if child.suffix in (".yaml", ".yml") and not child.name.startswith(".")
            )
        except OSError as error:
            problems.append(Problem(str(path), 0, "", f"cannot be read: {error.strerror}"))
            continue
        names = _names(path)
        found.extend((child, names.get(child.name, str(child))) for child in inside)
    if len(found) > MAX_FILES:
        problems.append(Problem(str(paths[0]), 0, "", f"more than {MAX_FILES} files"))
        return []
    return found


def _names(directory: Path) -> dict[str, str]:
    """Empty without a list, or with one that is broken: the files' own names are true as well."""
    try:
        return msgspec.json.decode((directory / NAMES).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def _same(one: Files | ConfigurationError | None, other: Files | ConfigurationError | None) -> bool:
    if isinstance(one, ConfigurationError) and isinstance(other, ConfigurationError):
        return one.problems == other.problems
    return one == other
