"""What the image holds of the optional packages."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# For machines of people, not for pods; gigabytes of torch for a reference engine neither.
NOT_IN_PODS = {"dev", "kubernetes", "plots", "llamacpp", "torch-engine"}


def test_pods_can_do_all_that_an_extra_makes_possible() -> None:
    """Also weights of `s3://`, which the container `fetch-weights` brings by this image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.findall(r'extras\["([\w-]+)"\]', (ROOT / "Dockerfile").read_text())
    assert set(installed) == set(project["optional-dependencies"]) - NOT_IN_PODS
