"""Stands by until this process leads, and says when it does no more."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shunter_operator.telemetry import Telemetry
from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.lease_store import LeaseStore


@asynccontextmanager
async def leadership(
    lease: LeaseStore, telemetry: Telemetry, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Enters once this process leads, or is told to stop; sets `stop` when the lead is lost."""
    leads = asyncio.Event()

    def changed(term: int | None) -> None:
        telemetry.leading.set(term is not None)
        if term is not None:
            leads.set()
        elif leads.is_set():
            stop.set()

    election = LeaderElection(lease, f"{socket.gethostname()}_{secrets.token_hex(4)}")
    task = asyncio.create_task(election.run(changed), name="leader election")
    task.add_done_callback(lambda _: stop.set())
    try:
        await first_of(leads, stop)
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await election.release()


async def first_of(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
