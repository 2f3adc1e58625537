"""Configuration files as the commands read them."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from shunter_api.problems import ConfigurationError, Problem
from shunter_api.validate import Configuration, load_configuration
from shunter_scheduler.costmodel.shapes import UnknownModel, model_shape
from shunter_scheduler.sources.files import Files, read_files

QUICKSTART = "quickstart.yaml"


def quickstart_path() -> Path:
    """`manifests/quickstart.yaml`: in a wheel it lies in the package, in a checkout at the root."""
    packaged = Path(str(files("shunter"))) / QUICKSTART
    if packaged.is_file():
        return packaged
    return Path(str(files("shunter"))).parents[1] / "manifests" / QUICKSTART


def load(paths: Sequence[Path]) -> Configuration:
    """Raises `ConfigurationError` with every problem of every file."""
    return parse(read_files(paths))


def parse(contents: Files) -> Configuration:
    """Raises `ConfigurationError`, also for a simulated model whose shape nobody knows."""
    configuration = load_configuration(contents)
    problems = []
    for pool in configuration.pools:
        if pool.engine_type == "simulated":
            try:
                model_shape(pool.spec.model.source)
            except UnknownModel as error:
                problems.append(Problem(f"pool {pool.name}", 0, "spec.model.source", str(error)))
    if problems:
        raise ConfigurationError(tuple(problems))
    return configuration
