from collections.abc import AsyncIterator

import pytest

from edge_service import Service, run_service


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with run_service() as running:
        yield running
