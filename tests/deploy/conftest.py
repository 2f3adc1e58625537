from collections.abc import Iterator

import pytest

from cluster_load import Gateway, undisturbed
from helm_chart import Helm, find_tool
from helm_release import DEMO, READY_S, Installed, Machine, installed, machine, wait_for


@pytest.fixture(scope="session")
def helm() -> Helm:
    program = find_tool("helm")
    if program is None:
        pytest.skip("needs helm on PATH or in $KUBE_CACHE/bin")
    return Helm(program)


@pytest.fixture(scope="session")
def cluster() -> Machine:
    return machine()


@pytest.fixture(scope="session")
def release(cluster: Machine) -> Iterator[Installed]:
    """One for all tests; each leaves it as it was."""
    with installed(cluster, *DEMO) as found:
        found.fix_replicas()
        wait_for("the demo pool is ready", found.whole, READY_S)
        yield found


@pytest.fixture(scope="session")
def expected(release: Installed) -> dict[str, str]:
    """What the streams of the demo's pool must say."""
    return undisturbed(Gateway.service(release))
