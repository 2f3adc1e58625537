"""Several schedulers: the gateway finds the one that leads and refuses one that led before."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from certificates import certificates_in
from shunter_gateway.scheduler_client import SchedulerClient, SchedulerTarget
from shunter_gateway.testing_scheduler import topology_message
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, channel_credentials, server_credentials


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Leader(pb_grpc.SchedulerServicer):
    """Says its topology and one cancel, in its term; term None: a standby."""

    term: int | None
    hellos: list[int] = field(default_factory=list)
    leaves: asyncio.Event = field(default_factory=asyncio.Event)

    async def Session(self, _: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override,type-arg]
        first = await context.read()
        self.hellos.append(first.events[0].hello.term)
        if self.term is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "standby; the leader is another")
        topology = pb.SchedulerCommand(topology=topology_message({"chat-0": "chat"}))
        cancel = pb.SchedulerCommand(cancel=pb.Cancel(request_id=f"of-{self.term}"))
        await context.write(pb.SchedulerCommands(commands=[topology, cancel], term=self.term))
        await self.leaves.wait()


@asynccontextmanager
async def listening(service: Leader, tls: TlsFiles | None = None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    pb_grpc.add_SchedulerServicer_to_server(service, server)
    if tls is None:
        bound = server.add_insecure_port("127.0.0.1:0")
    else:
        bound = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


class Heard:
    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.sessions = 0

    def on_commands(self, commands: pb.SchedulerCommands) -> None:
        for command in commands.commands:
            if command.HasField("cancel"):
                self.cancelled.append(command.cancel.request_id)

    def on_session(self) -> None:
        self.sessions += 1


@asynccontextmanager
async def connecting(
    *addresses: str, tls: TlsFiles | None = None
) -> AsyncIterator[tuple[SchedulerClient, Heard]]:
    credentials = channel_credentials(tls) if tls else None
    client = SchedulerClient(
        SchedulerTarget(",".join(addresses), "gw-1", "test", credentials, backoff_s=0.02)
    )
    heard = Heard()
    task = asyncio.create_task(client.run(heard))
    try:
        yield client, heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_leader_is_found_among_standbys() -> None:
    standby, leader = Leader(None), Leader(3)  # type: ignore[abstract]
    async with (
        listening(standby) as one,
        listening(leader) as other,
        connecting(f"127.0.0.1:{one}", f"localhost:{other}") as (client, heard),
    ):
        await until(lambda: client.lost_since is None)
        assert (heard.cancelled, heard.sessions) == (["of-3"], 1)
        assert standby.hellos


async def test_a_standby_that_becomes_the_leader_is_found_at_the_same_address() -> None:
    only = Leader(None)  # type: ignore[abstract]
    async with listening(only) as port, connecting(f"127.0.0.1:{port}") as (client, heard):
        await until(lambda: len(only.hellos) >= 2)
        assert client.lost_since is not None
        only.term = 1
        await until(lambda: heard.cancelled == ["of-1"])


async def test_commands_of_an_older_term_are_refused() -> None:
    new, old = Leader(2), Leader(1)  # type: ignore[abstract]
    async with (
        listening(new) as one,
        listening(old) as other,
        connecting(f"127.0.0.1:{one}", f"127.0.0.1:{other}") as (client, heard),
    ):
        await until(lambda: heard.cancelled == ["of-2"])
        new.leaves.set()
        new.term = None
        await until(lambda: len(old.hellos) >= 2)
        assert set(old.hellos) == {2}
        assert (heard.cancelled, client.lost_since is None) == (["of-2"], False)
        old.term = 3  # it leads again
        await until(lambda: heard.cancelled == ["of-2", "of-3"])


async def test_a_scheduler_without_a_lease_is_always_obeyed() -> None:
    leased, alone = Leader(5), Leader(0)  # type: ignore[abstract]
    async with (
        listening(leased) as one,
        listening(alone) as other,
        connecting(f"127.0.0.1:{one}", f"127.0.0.1:{other}") as (_, heard),
    ):
        await until(lambda: heard.cancelled == ["of-5"])
        leased.leaves.set()
        leased.term = None
        await until(lambda: heard.cancelled == ["of-5", "of-0"])


async def test_the_certificate_is_checked_against_the_name_that_was_given(tmp_path: Path) -> None:
    files = certificates_in(tmp_path)
    leader = Leader(1)  # type: ignore[abstract]
    async with (
        listening(leader, files("server")) as port,
        connecting(f"localhost:{port}", tls=files("client")) as (_, heard),
    ):
        await until(lambda: heard.cancelled == ["of-1"])


async def test_a_name_that_is_not_found_leaves_the_others() -> None:
    leader = Leader(1)  # type: ignore[abstract]
    async with (
        listening(leader) as port,
        connecting("no-such-host.invalid:1", f"127.0.0.1:{port}") as (_, heard),
    ):
        await until(lambda: heard.cancelled == ["of-1"])
