"""Leader or standby: carries each change of role to the service, its health and its metrics."""

import asyncio

import structlog

from shunter_scheduler.service.leaving import empty_leaving
from shunter_scheduler.service.parts import Parts
from shunter_scheduler.service.server import Listening
from shunter_scheduler.service.stepping_down import step_down

log = structlog.get_logger(__name__)


class Role:
    """`changed` is what an election calls. Run `run()` as a task until it is cancelled."""

    def __init__(self, parts: Parts, listening: Listening, stop: asyncio.Event) -> None:
        self._parts = parts
        self._listening = listening
        self._stop = stop
        self._changed = asyncio.Event()

    def changed(self, term: int | None) -> None:
        if term is None:
            step_down(self._parts)
        else:
            empty_leaving(self._parts)
        log.info("scheduler.role", role="standby" if term is None else "leader", term=term)
        self._changed.set()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.show()

    async def show(self) -> None:
        """To probes and to Prometheus."""
        stopping = self._stop.is_set()
        leading = self._parts.leadership.term is not None and not stopping
        self._parts.telemetry.leading.set(leading)
        await self._listening.set_serving(alive=not stopping, leading=leading)
