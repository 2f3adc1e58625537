import pytest

from helm_chart import Helm, find_tool


@pytest.fixture(scope="session")
def helm() -> Helm:
    program = find_tool("helm")
    if program is None:
        pytest.skip("needs helm on PATH or in $KUBE_CACHE/bin")
    return Helm(program)
