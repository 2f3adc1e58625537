"""Settings of all tests."""

import os

from hypothesis import settings

# Without a deadline for an example: a loaded machine is no failure.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)  # a red run is repeated by anybody
settings.load_profile("ci" if os.environ.get("CI") else "local")
