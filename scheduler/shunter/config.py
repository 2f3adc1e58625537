"""Configuration files as the commands read them."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from shunter_api.validate import Configuration, load_configuration
from shunter_scheduler.sources.files import KNOWN, Files, read_files

QUICKSTART = "quickstart.yaml"


def quickstart_path() -> Path:
    """`manifests/quickstart.yaml`: in a wheel it lies in the package, in a checkout at the root."""
    packaged = Path(str(files("shunter"))) / QUICKSTART
    if packaged.is_file():
        return packaged
    return Path(str(files("shunter"))).parents[1] / "manifests" / QUICKSTART


def load(paths: Sequence[Path]) -> Configuration:
    """As the scheduler would. Raises `ConfigurationError` with every problem of every file."""
    return parse(read_files(paths))


def parse(contents: Files) -> Configuration:
    """Raises `ConfigurationError`."""
    return load_configuration(contents, KNOWN)
