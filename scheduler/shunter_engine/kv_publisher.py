"""Publishes the changes of the prefix cache over ZeroMQ, in vLLM's format.

PUB: `[topic, sequence, payload]`, the sequence 8 bytes, big-endian, from 0; the payload msgpack of
`[timestamp, [event, ...]]`. ROUTER, where a replay endpoint is set: asked for a sequence, it sends
all batches from there on that are still kept, and one with an empty payload at the end.
(vLLM 0.10, vllm/distributed/kv_events.py.)
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shunter_api.kv_events import KvEventsConfig, parse_kv_events_config
from shunter_engine.loading import EngineStartError

if TYPE_CHECKING:
    import zmq.asyncio

END = b"\xff" * 8
TURN_BATCHES = 64  # of a replay, between two turns of the event loop


def open_publisher(config: str) -> "KvPublisher | None":
    """None where the configuration says so. Raises `EngineStartError`."""
    if not config:
        return None
    try:
        parsed = parse_kv_events_config(config)
        return KvPublisher(parsed) if parsed.enabled else None
    except (ValueError, OSError) as error:
        raise EngineStartError(str(error)) from error


class KvPublisher:
    """A `CacheListener`: one batch per step. Slow readers lose batches beyond `hwm`."""

    def __init__(self, config: KvEventsConfig, now_s: Callable[[], float] = time.time) -> None:
        """Binds the sockets. Raises `OSError` where that fails."""
        import zmq
        import zmq.asyncio

        self._topic = config.topic.encode()
        self._now_s = now_s
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._sequence = 0
        self._events: list[tuple[object, ...]] = []
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[Any]] = []
        self._replaying: asyncio.Task[None] | None = None
        try:
            self._pub = self._context.socket(zmq.PUB)
            self._sockets.append(self._pub)
            self._pub.set_hwm(config.hwm)
            _bind(self._pub, config.endpoint)
            if config.replay_endpoint:
                router = zmq.asyncio.Context.shadow(self._context).socket(zmq.ROUTER)
                self._sockets.append(router)
                # A router drops what a reader is too slow for: a whole replay has to fit.
                router.set_hwm(config.buffer_steps + 1)
                _bind(router, config.replay_endpoint)
                self._replaying = asyncio.create_task(self._replay(router), name="kv-replay")
        except OSError:
            self._close_sockets()
            raise

    def stored(
        self, hashes: Sequence[bytes], parent: bytes | None, tokens: Sequence[int], size: int
    ) -> None:
        named = [_number(one) for one in hashes]
        above = None if parent is None else _number(parent)
        self._events.append(("BlockStored", named, above, list(tokens), size, None, "GPU"))

    def removed(self, block_hash: bytes) -> None:
        self._events.append(("BlockRemoved", [_number(block_hash)], "GPU"))

    def step_ended(self) -> None:
        if not self._events:
            return
        import zmq

        payload = msgspec.msgpack.encode((self._now_s(), self._events))
        self._events = []
        self._kept.append((self._sequence, payload))
        frames = (self._topic, self._sequence.to_bytes(8, "big"), payload)
        self._sequence += 1
        with contextlib.suppress(zmq.Again):
            self._pub.send_multipart(frames, zmq.NOBLOCK)

    async def close(self) -> None:
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.wait((self._replaying,))
        self._close_sockets()

    def _close_sockets(self) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self._context.term()

    async def _replay(self, router: "zmq.asyncio.Socket") -> None:
        while True:
            await self._answer(router)

    async def _answer(self, router: "zmq.asyncio.Socket") -> None:
        frames = await router.recv_multipart()
        if len(frames) < 2 or len(frames[-1]) != 8:
            return
        asker, start = frames[0], int.from_bytes(frames[-1], "big")
        for at, (sequence, payload) in enumerate([it for it in self._kept if it[0] >= start]):
            await router.send_multipart((asker, b"", sequence.to_bytes(8, "big"), payload))
            if at % TURN_BATCHES == 0:  # a send that does not block does not yield
                await asyncio.sleep(0)
        await router.send_multipart((asker, b"", END, b""))


def _bind(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Raises `OSError` that names the endpoint."""
    import zmq

    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{endpoint}: {error.strerror}") from error


def _number(block_hash: bytes) -> int:
    return int.from_bytes(block_hash[-8:], "big")
