"""Open-loop replay: requests leave when they are due, whatever became of those before them.

Times are `perf_counter`'s: uvloop's own clock ticks in milliseconds, too coarse for tokens.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter

from shunter.bench.records import PlannedRequest, Record, Tally

Send = Callable[[PlannedRequest, Record, float], Awaitable[None]]


async def replay(
    requests: Iterable[PlannedRequest],
    send: Send,
    tally: Tally,
    max_in_flight: int,
    stop: asyncio.Event,
) -> list[Record]:
    """The records of all requests that ended, in the order in which they did.

    `send` fills in a record and does not raise. Requests beyond `max_in_flight` wait for a slot,
    which their times include. `stop` ends the run early: what is in flight is dropped.
    """
    records: list[Record] = []
    run = asyncio.create_task(_run(requests, send, tally, max_in_flight, records))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((run, stopped), return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            await run  # raises what it raised
    finally:
        for task in (run, stopped):
            task.cancel()
        await asyncio.gather(run, stopped, return_exceptions=True)
    return records


async def _run(
    requests: Iterable[PlannedRequest],
    send: Send,
    tally: Tally,
    max_in_flight: int,
    records: list[Record],
) -> None:
    slots = asyncio.Semaphore(max_in_flight)
    started_at = perf_counter()

    async def one(request: PlannedRequest) -> None:
        due_at = started_at + request.at_s
        record = _record(request)
        record.late_s = perf_counter() - due_at
        must_wait = slots.locked()
        async with slots:
            if must_wait:
                record.slot_wait_s = perf_counter() - due_at - record.late_s
            tally.sent += 1
            await send(request, record, due_at)
        tally.finished += 1
        tally.failed += bool(record.error)
        records.append(record)

    async with asyncio.TaskGroup() as group:
        for request in requests:
            # Building the body of the next request is over before the wait for its time begins.
            await asyncio.sleep(max(0.0, started_at + request.at_s - perf_counter()))
            group.create_task(one(request))


def _record(request: PlannedRequest) -> Record:
    return Record(
        request.index,
        request.model,
        request.at_s,
        request.prompt_tokens,
        request.output_tokens,
    )
