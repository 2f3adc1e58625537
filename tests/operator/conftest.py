import pytest

from operator_world import World


@pytest.fixture
def world() -> World:
    return World()
