"""One engine's stream of KV events: in order and without gaps, or begun anew."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from shunter_api.kv_events import KvEventsEndpoint
from shunter_runtime.log_limit import LimitedLog
from shunter_scheduler.domain.events import KvCleared
from shunter_scheduler.service.kv_format import KvEvent, KvFormat
from shunter_scheduler.telemetry import Telemetry

if TYPE_CHECKING:
    import zmq.asyncio

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_QUEUED = 10_000  # messages in a socket; more are a gap
MAX_REPLAYED = 1_000_000  # batches
MAX_REPLAYED_BYTES = 256 * 1024 * 1024
REPLAY_TIMEOUT_S = 10.0
COOLDOWN_S = 30.0  # between two replays of one engine
HEARTBEAT_S = 10.0  # a machine that loses its power closes no connection
MAX_RECONNECT_S = 5.0  # between two attempts; the first comes after 0.1 s
END = (1 << 64) - 1

log = structlog.get_logger(__name__)

Put = Callable[[Sequence[KvEvent]], Awaitable[None]]
Batch = tuple[int, bytes]  # sequence and payload


@dataclass(frozen=True, slots=True)
class KvStreamParts:
    """What the streams of all engines share. `replays` bounds how many ask at once."""

    put: Put
    telemetry: Telemetry
    replays: asyncio.Semaphore
    cooldown_s: float = COOLDOWN_S
    heartbeat_s: float = HEARTBEAT_S


class KvStream:
    """Follows sequence numbers. A batch that is missing is asked for again; where that does not
    help, or the engine is another process than before, what was known of it is dropped."""

    def __init__(
        self,
        instance: str,
        endpoint: KvEventsEndpoint,
        context: "zmq.asyncio.Context",
        parts: KvStreamParts,
    ) -> None:
        """Where an event loop runs."""
        self.log = LimitedLog(log.bind(instance=instance), asyncio.get_running_loop().time)
        self._instance = instance
        self._endpoint = endpoint
        self._context = context
        self._parts = parts
        self._format = KvFormat(instance)
        self._expected: int | None = None  # None: nothing is known
        self._replayed = -1  # what a replay gave may come again from the subscription
        self._replay_not_before = 0.0

    async def run(self) -> None:
        """Until it is cancelled. The socket connects again by itself."""
        import zmq
        import zmq.asyncio

        events = _socket(self._context, zmq.SUB, self._endpoint.events)
        events.set(zmq.HEARTBEAT_IVL, round(self._parts.heartbeat_s * 1000))
        events.set(zmq.HEARTBEAT_TIMEOUT, round(2 * self._parts.heartbeat_s * 1000))
        events.set(zmq.RECONNECT_IVL_MAX, round(MAX_RECONNECT_S * 1000))
        events.subscribe(self._endpoint.topic)
        connection = events.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        poller = zmq.asyncio.Poller()
        poller.register(connection, zmq.POLLIN)
        poller.register(events, zmq.POLLIN)
        try:
            await self._forget()
            events.connect(self._endpoint.events)
            while True:
                ready = dict(await poller.poll())
                if connection in ready:
                    await self._connection_changed(await connection.recv_multipart())
                elif events in ready:
                    await self._received(await events.recv_multipart())
        finally:
            events.disable_monitor()
            connection.close(linger=0)
            events.close(linger=0)

    async def _connection_changed(self, frames: list[bytes]) -> None:
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
            self.log.info("kv_events.disconnected")
            await self._forget()
        elif self._expected is None:  # what was there before is found out now, not by a first event
            await self._catch_up(0)

    async def _received(self, frames: list[bytes]) -> None:
        batch = _batch(frames)
        if batch is None:
            self.log.warning("kv_events.refused", reason="not three frames")
            return
        sequence = batch[0]
        if self._expected is None:
            if sequence:  # joins midway
                await self._catch_up(0)
        elif sequence > self._expected:
            self.log.info("kv_events.gap", expected=self._expected, got=sequence)
            await self._catch_up(self._expected)
        elif sequence < self._expected and sequence > self._replayed:
            self.log.info("kv_events.restarted", got=sequence)
            await self._forget()
            await self._catch_up(0)
        if self._expected is not None and sequence < self._expected:
            return  # a replay had it
        if sequence != (self._expected or 0):
            await self._lost()
        await self._apply(batch)
        self._replayed = -1

    async def _catch_up(self, start: int) -> None:
        """Asks for all batches from `start` on, and applies them."""
        now = asyncio.get_running_loop().time()
        if not self._endpoint.replay or (start and now < self._replay_not_before):
            return
        if start:
            self._replay_not_before = now + self._parts.cooldown_s
        batches: list[Batch] = []
        try:
            async with self._parts.replays, asyncio.timeout(REPLAY_TIMEOUT_S):
                await self._ask(start, batches)
            outcome = "whole" if batches and batches[0][0] == start else "partial"
        except TimeoutError:  # what came is as good as any; what did not is a gap
            outcome = "timeout"
        self._parts.telemetry.kv_replays.labels(outcome).inc()
        for batch in batches:
            if batch[0] != (self._expected or 0):
                await self._lost()
            await self._apply(batch)
            self._replayed = batch[0]
        self.log.info("kv_events.caught_up", batches=len(batches))

    async def _ask(self, start: int, batches: list[Batch]) -> None:
        """Adds them as they come."""
        import zmq

        asker = _socket(self._context, zmq.DEALER, self._endpoint.replay)
        try:
            asker.connect(self._endpoint.replay)
            await asker.send_multipart((b"", start.to_bytes(8, "big")))
            size = 0
            while len(batches) < MAX_REPLAYED and size < MAX_REPLAYED_BYTES:
                batch = _batch(await asker.recv_multipart())
                if batch is None or batch[0] == END or not batch[1]:
                    break
                batches.append(batch)
                size += len(batch[1])
        finally:
            asker.close(linger=0)

    async def _apply(self, batch: Batch) -> None:
        sequence, payload = batch
        self._expected = sequence + 1
        try:
            events = self._format.events(payload)
        except ValueError as error:
            self.log.warning("kv_events.refused", reason=str(error))
            await self._lost()
            return
        self._parts.telemetry.kv_batches.inc()
        if events:
            await self._parts.put(events)

    async def _lost(self) -> None:
        """Something is missing for good: what is known of the engine begins anew."""
        self._parts.telemetry.kv_lost.inc()
        await self._parts.put((KvCleared(self._instance),))

    async def _forget(self) -> None:
        self._expected, self._replayed, self._replay_not_before = None, -1, 0.0
        await self._parts.put((KvCleared(self._instance),))


def _socket(context: "zmq.asyncio.Context", kind: int, endpoint: str) -> "zmq.asyncio.Socket":
    """Receives only so much. Not connected yet."""
    import zmq

    socket = context.socket(kind)
    socket.set(zmq.RCVHWM, MAX_QUEUED)
    socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.set(zmq.IPV6, int("[" in endpoint))
    return socket


def _batch(frames: Sequence[bytes]) -> Batch | None:
    """The last two frames: topic or delimiter are before them."""
    if len(frames) < 2 or len(frames[-2]) != 8:
        return None
    return int.from_bytes(frames[-2], "big"), frames[-1]
