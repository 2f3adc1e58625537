from collections.abc import AsyncIterator

import pytest

from shunter_gateway.engines.connection import HttpLimits
from shunter_gateway.engines.http1 import HttpClient

FAST = HttpLimits(connect_s=1.0, first_byte_s=0.5, idle_s=0.2, sweep_s=0.02, keep_alive_s=5.0)


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def impatient() -> AsyncIterator[HttpClient]:
    """With deadlines of a fraction of a second."""
    client = HttpClient(FAST)
    yield client
    await client.close()
