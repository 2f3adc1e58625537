"""Settings of all tests."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# Without a deadline for an example: a loaded machine is no failure.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)  # a red run is repeated by anybody
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """A command that a test runs in its own process sets up logging for all that come after it."""
    yield
    structlog.reset_defaults()
