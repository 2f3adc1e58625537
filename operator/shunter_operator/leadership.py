"""Stands by until this process leads, and says when that is over."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from shunter_operator.telemetry import Telemetry
from shunter_runtime.lease import LeaseTiming
from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.lease_store import LeaseStore

# No request waits for an operator, and an API server that is slow for a few seconds, as under the
# first passes over hundreds of pools, is no reason to change it. Of a killed one the Lease runs
# out after 15 s, as with Kubernetes' own controllers.
TIMING = LeaseTiming(lease_s=15.0, renew_s=3.0, retry_s=1.0, give_up_s=12.0)


@dataclass(frozen=True, slots=True)
class Term:
    """`over` is set when the lead is lost, or the process is told to stop. `holds` reads the clock:
    a process that slept knows by it that another may lead, before anything has been told."""

    over: asyncio.Event
    holds: Callable[[], bool] = lambda: True


@asynccontextmanager
async def leadership(
    lease: LeaseStore, telemetry: Telemetry, stop: asyncio.Event
) -> AsyncIterator[Term]:
    """Enters once this process leads, or is told to stop. An election that breaks sets `stop`, and
    is raised at the end."""
    leads, over = asyncio.Event(), asyncio.Event()

    def changed(term: int | None) -> None:
        telemetry.leading.set(term is not None)
        if term is not None:
            leads.set()
        elif leads.is_set():
            over.set()

    identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    election = LeaderElection(lease, identity, timing=TIMING)
    task = asyncio.create_task(election.run(changed), name="leader election")
    task.add_done_callback(lambda done: None if done.cancelled() else stop.set())
    stopping = asyncio.create_task(stop.wait(), name="stopping")
    stopping.add_done_callback(lambda _: over.set())
    try:
        await first_of(leads, over)
        yield Term(over, lambda: election.term is not None)
    finally:
        for ending in (stopping, task):
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending
        await election.release()


async def first_of(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def wind_down(
    watching: Collection[asyncio.Task[None]], working: Collection[asyncio.Task[None]]
) -> None:
    """Once one of kopf's tasks has ended, as all do when the term is over: who works stops at once,
    and then kopf, which may take seconds. What it dies of is raised. (Its own `run_tasks` would
    also end every other task of the loop.)"""
    await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
    for task in (*working, *watching):
        task.cancel()
    for end in await asyncio.gather(*watching, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
