"""A gateway is killed in mid-move: its streams break, as they must, and with them goes what engines
hold for the move. Or the scheduler is: the gateway goes on with the move."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

import fault_gateway
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_runtime import grpc_polling
from shunter_system import EngineSpec, System, free_port
from streams import Answer, all_in_mid_answer, client, stream, undisturbed
from system_moves import busiest, drained, fault, moved_by, nothing_is_held, undrain

PROMPT = "The wagons of the night train are to be sorted anew."
TOKENS = 300
SLOWLY = 400.0  # an answer does not end before a scheduler has started again
ENDLESS = 4000  # then: what holds anything does not come to its end by itself
LEASE_S = 60.0  # the longest that engines grant
# Nothing but a lease tells the destination that nobody will pull.
LEASES_S = {"Prepare answered": 2.0}
KILLED = "killing"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    extra = ("--speed", "10", "--moves-port", "0")
    made = System(
        tmp_path_factory.mktemp("system"),
        (EngineSpec("a", extra=extra), EngineSpec("b", extra=extra)),
        environment={grpc_polling.VARIABLE: grpc_polling.DIRECT},
    )
    try:
        made.start()
        yield made
        made.wait_idle(30)  # what dead gateways had is out of the scheduler's ledger after 5 s
    finally:
        made.stop()


@asynccontextmanager
async def slow(system: System) -> AsyncIterator[None]:
    for name in "ab":
        fault(system, name, kind="slow", factor=SLOWLY)
    try:
        yield
    finally:
        for name in "ab":
            fault(system, name, kind="clear")


async def start_killing(system: System, at: str, pid: int) -> str:
    """The address of a second gateway, which kills at that point of its first move."""
    if KILLED in system.processes:
        system.kill(KILLED)
    port = free_port()
    system.spawn_python(
        KILLED,
        fault_gateway.__file__,
        *(at, str(pid), str(LEASES_S.get(at, LEASE_S))),
        *("--scheduler", system.scheduler_address),
        *("--listen", f"127.0.0.1:{port}", "--grpc-listen", ""),
    )
    url = f"http://127.0.0.1:{port}"
    await asyncio.to_thread(system.wait_http, f"{url}/ready", KILLED)
    return url


@asynccontextmanager
async def answering(url: str, tokens: int) -> AsyncIterator[tuple[Answer, asyncio.Task[Answer]]]:
    """In mid-answer."""
    answer = Answer(PROMPT)
    async with client(url) as user:
        streaming = asyncio.create_task(stream(user, answer, "chat", tokens))
        try:
            await all_in_mid_answer([answer], 3)
            yield answer, streaming
        finally:
            streaming.cancel()
            await asyncio.wait([streaming])


async def moves(system: System, answer: Answer, moved: int) -> str:
    """Has everything leave the instance where that answer began, and returns once so many have."""
    with system.scheduler() as stub:
        explained = stub.Explain(pb.ExplainRequest(request_id=answer.request_id))
    source = explained.decisions[-1].winner
    await asyncio.to_thread(drained, system, source, moved)
    return source


@pytest.mark.parametrize(
    "at", ["Prepare answered", "stage 1", "Freeze answered", "Commit answered"]
)
async def test_the_gateway_is_killed(system: System, at: str) -> None:
    (expected,) = await undisturbed(system.url, [PROMPT], "chat", TOKENS)
    before = moved_by(system).get("kv", 0)
    killing = await start_killing(system, at, 0)
    async with slow(system):
        async with answering(killing, ENDLESS) as (broken, streaming):
            source = await moves(system, broken, 0)
            await asyncio.wait([streaming], timeout=100)
            assert streaming.done() and streaming.exception() is not None
        assert system.processes.pop(KILLED).wait(30) == -signal.SIGKILL
        assert broken.finish_reason is None
        await nothing_is_held(system)
        undrain(system, source)
        async with answering(system.url, TOKENS) as (answer, streaming):
            undrain(system, await moves(system, answer, 1))
            for name in "ab":
                fault(system, name, kind="clear")
            await streaming
    assert answer.text == expected.text and moved_by(system)["kv"] == before + 1
    await nothing_is_held(system)


async def test_the_scheduler_is_killed(system: System) -> None:
    (expected,) = await undisturbed(system.url, [PROMPT], "chat", TOKENS)
    scheduler = system.processes["scheduler"]
    killing = await start_killing(system, "Freeze answered", scheduler.pid)
    async with slow(system), answering(killing, TOKENS) as (answer, streaming):
        source = await moves(system, answer, 0)
        assert await asyncio.to_thread(scheduler.wait, 100) == -signal.SIGKILL
        system.start_scheduler()
        await asyncio.to_thread(system.wait_ready)
        async with asyncio.timeout(20):  # the gateway tells it where the request runs
            while not sum((await asyncio.to_thread(system.running)).values()):
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(busiest, system) != source
        for name in "ab":
            fault(system, name, kind="clear")
        await streaming
    assert answer.text == expected.text
    system.kill(KILLED, signal.SIGTERM)
    await nothing_is_held(system)
