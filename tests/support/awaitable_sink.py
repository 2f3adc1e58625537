"""A sink of the gateway's core that a test can wait for."""

import asyncio
from collections.abc import Callable
from typing import Self

from shunter_gateway.request import ClientError, Outcome
from shunter_gateway.testing import RecordingSink


class AwaitableSink(RecordingSink):
    UNTIL_S = 20.0
    END_S = 30.0

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()

    def on_done(self, outcome: Outcome) -> None:
        super().on_done(outcome)
        self.end.set()

    def on_error(self, error: ClientError) -> None:
        super().on_error(error)
        self.end.set()

    async def until(self, condition: Callable[[Self], bool]) -> None:
        """Until it holds, or the answer has ended."""
        async with asyncio.timeout(self.UNTIL_S):
            while not condition(self) and not self.end.is_set():
                await asyncio.sleep(0.002)

    async def finished(self) -> Outcome:
        async with asyncio.timeout(self.END_S):
            await self.end.wait()
        assert self.outcome is not None, self.error
        return self.outcome
