"""One scheduler leads, one stands by; the leader dies, leaves or stands still under load."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lease_api import LeaseApi, lease_api, write_kubeconfig
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

LEASE = "shunter-scheduler"
STREAMS = 8
AFTER_KILL_S, AFTER_STOP_S = 8.0, 2.0


@dataclass
class Pair:
    """Schedulers `one` and `other`, and who of them leads."""

    system: System
    api: LeaseApi

    async def status(self, name: str) -> pb.StatusReply | None:
        """None from a standby and from one that does not answer."""
        try:
            return await asyncio.to_thread(self.system.status, name)
        except grpc.RpcError:
            return None

    async def leader(self) -> tuple[str, str]:
        """The leader's name, then the standby's, once that one follows the Lease."""
        async with asyncio.timeout(20):
            while not self.api.calls.get("watch"):
                await asyncio.sleep(0.02)
            while True:
                for one, other in (("one", "other"), ("other", "one")):
                    status = await self.status(one)
                    if status and status.gateways and await self.status(other) is None:
                        return one, other
                await asyncio.sleep(0.05)

    async def decides(self, name: str, term: int) -> None:
        """Until it places a request of the gateway."""
        while True:
            status = await self.status(name)
            if status and status.gateways:
                assert status.term == term
                break
            await asyncio.sleep(0.02)
        before = status.dispatched_total
        async with client(self.system.url) as openai:
            await stream(openai, Answer("One more wagon."), "chat", 4)
        after = await self.status(name)
        assert after is not None and after.dispatched_total > before

    def signal(self, name: str, number: signal.Signals) -> None:
        self.system.processes[name].send_signal(number)


@pytest.fixture
async def pair(start_system: Callable[..., System], tmp_path: Path) -> AsyncIterator[Pair]:
    async with lease_api() as api:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        system = await asyncio.to_thread(
            start_system,
            EngineSpec("a"),
            EngineSpec("b"),
            EngineSpec("quick", pool="quick", extra=("--speed", "50")),
            schedulers=("one", "other"),
            scheduler_args=("--lease", LEASE),
            environment={"KUBECONFIG": str(kubeconfig)},
        )
        yield Pair(system, api)
        await asyncio.to_thread(system.stop)


@asynccontextmanager
async def under_load(pair: Pair, tokens: int) -> AsyncIterator[None]:
    """Streams in mid-answer, of about 6 ms a token; in the end each has every token, the same as
    from a quick engine without disturbance."""
    url = pair.system.url
    expected = await undisturbed(url, prompts(STREAMS), "quick", tokens)
    answers = [Answer(prompt) for prompt in prompts(STREAMS)]
    async with client(url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", tokens))
        await all_in_mid_answer(answers, 3)
        yield
    assert [answer.text for answer in answers] == [answer.text for answer in expected]


async def test_the_standby_decides_soon_after_the_leader_was_killed(pair: Pair) -> None:
    leader, standby = await pair.leader()
    async with under_load(pair, 1300):
        await asyncio.to_thread(pair.system.kill, leader)
        async with asyncio.timeout(AFTER_KILL_S):
            await pair.decides(standby, term=2)
    pair.system.start_scheduler(leader)
    assert await pair.leader() == (standby, leader)


async def test_the_standby_decides_at_once_after_the_leader_has_left(pair: Pair) -> None:
    leader, standby = await pair.leader()
    async with under_load(pair, 500):
        pair.signal(leader, signal.SIGTERM)
        async with asyncio.timeout(AFTER_STOP_S):
            await pair.decides(standby, term=2)
        process = pair.system.processes.pop(leader)
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_leader_that_stood_still_decides_nothing_when_it_wakes(pair: Pair) -> None:
    leader, standby = await pair.leader()
    async with under_load(pair, 1800):
        pair.signal(leader, signal.SIGSTOP)
        try:
            async with asyncio.timeout(2 * AFTER_KILL_S):
                await pair.decides(standby, term=2)
        finally:
            pair.signal(leader, signal.SIGCONT)
        assert await pair.leader() == (standby, leader)
        await pair.decides(standby, term=2)


async def test_at_rest_only_the_leader_renews(pair: Pair) -> None:
    await pair.leader()
    before, term = dict(pair.api.calls), pair.api.term(LEASE)
    renewals = before.pop("replace", 0)
    while pair.api.calls.get("replace", 0) < renewals + 3:
        await asyncio.sleep(0.05)
    after = {method: count for method, count in pair.api.calls.items() if method != "replace"}
    assert (after, pair.api.term(LEASE)) == (before, term)
