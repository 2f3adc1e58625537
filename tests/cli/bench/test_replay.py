import asyncio
from collections.abc import Iterator
from time import perf_counter

import pytest

from shunter.bench.records import PlannedRequest, Record, Tally
from shunter.bench.replay import replay


def planned(times: list[float]) -> Iterator[PlannedRequest]:
    for index, at_s in enumerate(times):
        yield PlannedRequest(index, at_s, "m", "/", b"", 1, 1)


async def test_requests_leave_without_waiting_for_answers() -> None:
    """The first request is answered only after the last one has left."""
    last_left = asyncio.Event()
    left: list[int] = []

    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        left.append(request.index)
        if request.index == 4:
            last_left.set()
        await asyncio.wait_for(last_left.wait(), 10)

    tally = Tally(5)
    records = await replay(
        planned([0.0, 0.01, 0.02, 0.02, 0.03]), send, tally, 100, asyncio.Event()
    )
    assert left == [0, 1, 2, 3, 4]
    assert len(records) == 5
    assert (tally.sent, tally.finished, tally.failed, tally.in_flight) == (5, 5, 0, 0)


async def test_requests_leave_when_they_are_due_not_before() -> None:
    early: list[float] = []

    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        early.append(due_at - perf_counter())

    records = await replay(planned([0.0, 0.05, 0.1]), send, Tally(3), 100, asyncio.Event())
    assert max(early) <= 0.0
    assert [r.due_s for r in records] == [0.0, 0.05, 0.1]
    assert all(r.late_s >= 0 for r in records)


async def test_no_more_are_in_flight_than_allowed_and_the_wait_is_recorded() -> None:
    now_in, most = 0, 0

    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        nonlocal now_in, most
        now_in += 1
        most = max(most, now_in)
        await asyncio.sleep(0.02)
        now_in -= 1

    records = await replay(planned([0.0] * 6), send, Tally(6), 2, asyncio.Event())
    assert most == 2
    assert sum(r.slot_wait_s > 0.01 for r in records) == 4


async def test_failures_are_counted_as_they_happen() -> None:
    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        record.error = "timeout" if request.index % 2 else ""

    tally = Tally(4)
    await replay(planned([0.0] * 4), send, tally, 10, asyncio.Event())
    assert tally.failed == 2


async def test_a_stop_keeps_what_has_ended_and_cancels_the_rest() -> None:
    stop, cancelled = asyncio.Event(), []

    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        if request.index == 0:
            return
        stop.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(request.index)
            raise

    records = await replay(planned([0.0, 0.0, 60.0]), send, Tally(3), 10, stop)
    assert [r.index for r in records] == [0]
    assert cancelled == [1]


async def test_a_bug_in_the_sender_is_not_swallowed() -> None:
    async def send(request: PlannedRequest, record: Record, due_at: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await replay(planned([0.0]), send, Tally(1), 10, asyncio.Event())
    assert raised.group_contains(ZeroDivisionError)
