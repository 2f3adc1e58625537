"""The `Drain` call: asks the core to empty an instance and reports how far it is."""

import asyncio
from collections.abc import AsyncIterator

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain.events import DrainRequested
from shunter_scheduler.service.errors import NotFound
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.service.replies import to_progress

INTERVAL_S = 0.1
OVERTIME_S = 5.0  # after the deadline the core ends what is left; give that time to be reported


async def drain(driver: Driver, instance: str, timeout_s: float) -> AsyncIterator[pb.DrainProgress]:
    """Progress at each change; the last has `done`, or a message that says what is left.

    Ending the iteration early leaves the drain in force. Raises `NotFound`.
    """
    deadline_at = driver.clock() + timeout_s
    driver.tell_now(DrainRequested(instance, deadline_at))
    last = None
    while True:
        now = driver.clock()
        status = driver.core.drain_status(instance)
        if status is None:
            raise NotFound(f"instance {instance} left the configuration or was undrained")
        late = not status.done and now > deadline_at + OVERTIME_S
        if status != last or late:
            last = status
            message = f"{status.remaining} still run there after the deadline" if late else ""
            yield to_progress(status, message)
        if status.done or late:
            return
        await asyncio.sleep(INTERVAL_S)
