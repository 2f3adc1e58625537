"""Settings of all tests."""

import os

from hypothesis import settings

settings.register_profile("local")
settings.register_profile("ci", derandomize=True)  # a red run is repeated by anybody
settings.load_profile("ci" if os.environ.get("CI") else "local")
