"""Configuration files as the commands read them."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from shunter_api.validate import Configuration, load_configuration
from shunter_scheduler.sources.files import KNOWN, Files, read_files


def quickstart_path() -> Path:
    return _shipped("manifests", "quickstart.yaml")


def rules_path() -> Path:
    """What each process may do on a cluster, as the chart has it."""
    return _shipped("charts/shunter/files", "rules.yaml")


def _shipped(folder: str, name: str) -> Path:
    """A file of the repository: in a wheel it lies in the package, in a checkout in its folder."""
    package = Path(str(files("shunter")))
    packaged = package / name
    return packaged if packaged.is_file() else package.parents[1] / folder / name


def load(paths: Sequence[Path]) -> Configuration:
    """As the scheduler would. Raises `ConfigurationError` with every problem of every file."""
    return parse(read_files(paths))


def parse(contents: Files) -> Configuration:
    """Raises `ConfigurationError`."""
    return load_configuration(contents, KNOWN)
