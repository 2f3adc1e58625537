"""The reader of KV events against a real publisher on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pytest
import zmq
import zmq.asyncio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from kv_reading import Reading, config_of, publishing, reading, store, topology_of
from shunter_engine.kv_publisher import KvPublisher
from shunter_scheduler.domain.events import KvBlocksStored
from shunter_scheduler.service import kv_stream
from shunter_scheduler.service.kv_events import KvEventReader
from shunter_scheduler.service.kv_format import KvEvent
from shunter_scheduler.telemetry import Telemetry
from shunter_system import free_port


class _Nowhere:
    def send_multipart(self, *_: object) -> None:
        """As a socket does whose reader is too slow."""


@contextmanager
def dropping(publisher: KvPublisher) -> Iterator[None]:
    whole = publisher._pub
    publisher._pub = _Nowhere()  # type: ignore[assignment]
    yield
    publisher._pub = whole


@pytest.mark.parametrize("replays", [True, False])
async def test_follows_what_is_stored_and_removed(replays: bool) -> None:
    config = config_of(free_port(), free_port() if replays else None, topic="kv")
    async with publishing(config) as publisher, reading(config) as seen:
        async with asyncio.timeout(10):
            while not seen.held:  # without replays only what is published from now on comes
                store(publisher, 1)
                await asyncio.sleep(0.02)
        store(publisher, 2, 3)
        publisher.removed((2).to_bytes(16, "big"))
        publisher.step_ended()
        await seen.until({1, 3})


async def test_who_joins_midway_gets_what_was_before() -> None:
    """Though the engine is idle."""
    config = config_of(free_port(), free_port())
    async with publishing(config) as publisher:
        store(publisher, *range(500))
        async with reading(config) as seen:
            await seen.until(set(range(500)))
            store(publisher, 500)
            await seen.until(set(range(501)))
        assert seen.count("shunter_kv_event_batches_total") == 501, "each batch counts once"
        assert seen.count("shunter_kv_events_lost_total") == 0


async def test_a_gap_is_asked_for_again_and_nothing_is_forgotten() -> None:
    config = config_of(free_port(), free_port())
    async with publishing(config) as publisher, reading(config) as seen:
        store(publisher, 1)
        await seen.until({1})
        clears = seen.clears
        with dropping(publisher):
            store(publisher, 2, 3, 4)
        store(publisher, 5)
        await seen.until({1, 2, 3, 4, 5})
        assert seen.clears == clears
        assert seen.count("shunter_kv_event_replays_total", outcome="whole") >= 1


@pytest.mark.parametrize("why", ["no replays", "not kept any more", "cool-down"])
async def test_a_gap_that_stays_starts_the_instance_anew(why: str) -> None:
    replay = None if why == "no replays" else free_port()
    kept = {"buffer_steps": 2} if why == "not kept any more" else {}
    config = config_of(free_port(), replay, **kept)
    async with publishing(config) as publisher, reading(config) as seen:
        async with asyncio.timeout(10):
            while not seen.held:
                store(publisher, 1)
                await asyncio.sleep(0.02)
        if why == "cool-down":
            with dropping(publisher):
                store(publisher, 2)
            store(publisher, 3)
            await seen.until({1, 2, 3})
        with dropping(publisher):
            store(publisher, 12, 13, 14)
        store(publisher, 15)
        await seen.until({14, 15} if why == "not kept any more" else {15})
        assert seen.count("shunter_kv_events_lost_total") >= 1
        store(publisher, 16)
        await seen.until(seen.held | {16})


async def test_an_engine_that_ends_is_forgotten_and_its_successor_followed() -> None:
    config = config_of(free_port(), free_port())
    async with reading(config) as seen:
        async with publishing(config) as publisher:
            store(publisher, 1, 2, 3)
            await seen.until({1, 2, 3})
        await seen.until(set())
        async with publishing(config) as publisher:
            store(publisher, 7)
            await seen.until({7})
            store(publisher, 8)
            await seen.until({7, 8})


async def test_a_sequence_that_begins_anew_is_another_engine() -> None:
    """Behind a proxy that keeps the connection."""
    config = config_of(free_port(), free_port())
    async with publishing(config) as publisher, reading(config) as seen:
        store(publisher, 1, 2, 3)
        await seen.until({1, 2, 3})
        store(publisher, 4)
        await seen.until({1, 2, 3, 4})
        publisher._sequence = 0
        publisher._kept.clear()
        store(publisher, 9)
        await seen.until({9})
        store(publisher, 10)
        await seen.until({9, 10})


async def test_what_is_no_batch_ends_nothing() -> None:
    config = config_of(free_port(), free_port())
    async with publishing(config) as publisher, reading(config) as seen:
        store(publisher, 1)
        await seen.until({1})
        publisher._pub.send_multipart((b"", b"short", b""))
        publisher._pub.send_multipart((b"", (1).to_bytes(8, "big"), b"\xc1"))
        publisher._sequence = 2
        store(publisher, 2)
        await seen.until({2})


async def test_instances_come_and_go() -> None:
    config = config_of(free_port(), free_port())
    seen = Reading(Telemetry(CollectorRegistry()))
    topologies = [topology_of(config)]
    reader = KvEventReader(lambda: topologies[-1], seen.put, seen.telemetry)
    task = asyncio.create_task(reader.run())
    async with publishing(config) as publisher:
        store(publisher, 1)
        topologies.append(topology_of(config, "127.0.0.1:8000"))
        reader.look_now()
        await seen.until({1})
        topologies.append(topology_of(config))
        reader.look_now()
        async with asyncio.timeout(10):
            while any(one.get_name() == "kv-e0" for one in asyncio.all_tasks()):
                await asyncio.sleep(0.005)
        store(publisher, 2)
    task.cancel()
    await asyncio.wait((task,))
    assert not seen.held


async def test_a_long_replay_to_a_slow_reader_is_whole() -> None:
    """More and larger batches than sockets take at once."""
    config, count = config_of(free_port(), free_port()), 3000
    async with publishing(config) as publisher:
        for number in range(count):
            publisher.stored([number.to_bytes(16, "big")], None, range(8000), 8000)
            publisher.step_ended()
        async with reading(config) as seen:
            await seen.until(set(range(count)))
            assert seen.count("shunter_kv_event_replays_total", outcome="whole") == 1


async def test_a_replay_that_does_not_end_counts_as_far_as_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv_stream, "REPLAY_TIMEOUT_S", 0.5)
    events, replay = free_port(), free_port()
    async with publishing(config_of(events, None)) as publisher:
        store(publisher, *range(10))
        router = zmq.asyncio.Context.shadow(publisher._context).socket(zmq.ROUTER)
        publisher._sockets.append(router)
        router.bind(f"tcp://127.0.0.1:{replay}")
        async with reading(config_of(events, replay)) as seen:
            asker, *_ = await router.recv_multipart()
            for sequence, payload in publisher._kept:
                await router.send_multipart((asker, b"", sequence.to_bytes(8, "big"), payload))
            await seen.until(set(range(10)))
            assert seen.count("shunter_kv_event_replays_total", outcome="timeout") == 1


async def test_a_stream_that_fails_begins_anew() -> None:
    config = config_of(free_port(), free_port())
    topology = topology_of(config, "127.0.0.1:8000")
    seen = Reading(Telemetry(CollectorRegistry()))
    failures = [RuntimeError("once")]

    async def put(events: Sequence[KvEvent]) -> None:
        if isinstance(events[0], KvBlocksStored) and failures:
            raise failures.pop()
        await seen.put(events)

    async with publishing(config) as publisher:
        store(publisher, 1, 2)
        reader = KvEventReader(lambda: topology, put, seen.telemetry, cooldown_s=0.01)
        task = asyncio.create_task(reader.run())
        try:
            await seen.until({1, 2})
            assert seen.count("shunter_scheduler_internal_errors_total", place="kv_events") == 1
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def test_what_is_not_read_any_more_is_forgotten() -> None:
    """The instance stays, its events do not: what was known of its cache would only grow old."""
    config = config_of(free_port(), free_port())
    topologies = [topology_of(config, "127.0.0.1:8000")]
    seen = Reading(Telemetry(CollectorRegistry()))
    reader = KvEventReader(lambda: topologies[-1], seen.put, seen.telemetry)
    task = asyncio.create_task(reader.run())
    try:
        async with publishing(config) as publisher:
            store(publisher, 1)
            await seen.until({1})
            topologies.append(topology_of('{"enable_kv_cache_events": false}', "127.0.0.1:8000"))
            reader.look_now()
            await seen.until(set())
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_connection_that_went_silent_is_made_again() -> None:
    """A machine that lost its power closes no connection."""
    behind, before, replay = free_port(), free_port(), free_port()
    async with (
        silenced(before, behind) as silence,
        publishing(config_of(behind, replay)) as publisher,
        reading(config_of(before, replay), heartbeat_s=0.1) as seen,
    ):
        store(publisher, 1)
        await seen.until({1})
        silence()
        store(publisher, 2)
        await seen.until({1, 2})


@asynccontextmanager
async def silenced(port: int, behind: int) -> AsyncIterator[Callable[[], None]]:
    """A TCP proxy; once told, what is connected stays so and hears nothing more."""
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", behind)
        writers.extend((writer, onward[1]))
        tasks.append(asyncio.create_task(copy(reader, onward[1])))
        tasks.append(asyncio.create_task(copy(onward[0], writer)))

    def silence() -> None:
        for task in tasks:
            task.cancel()

    server = await asyncio.start_server(accepted, "127.0.0.1", port)
    try:
        yield silence
    finally:
        silence()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
        server.close()


async def test_a_broken_engine_does_not_flood_the_log() -> None:
    config = config_of(free_port(), free_port())
    with capture_logs() as lines:
        async with publishing(config) as publisher, reading(config) as seen:
            store(publisher, 1)
            await seen.until({1})
            for _ in range(50):
                publisher._pub.send_multipart((b"", b"short", b""))
            store(publisher, 2)
            await seen.until({1, 2})
    refused = [line for line in lines if line["event"] == "kv_events.refused"]
    assert [line["instance"] for line in refused] == ["e0"]
