"""Looks at every engine's health and metrics each second and tells the core what it saw."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved
from shunter_scheduler.service.engine_metrics import EngineLoad, parse_metrics, with_slots
from shunter_scheduler.service.llama_slots import slot_layout
from shunter_scheduler.service.replies import KvMoves
from shunter_scheduler.telemetry import Telemetry

if TYPE_CHECKING:
    import aiohttp

INTERVAL_S = 1.0
TIMEOUT_S = 2.0  # engines answer late while a long step holds their event loop
MAX_CONCURRENT = 64
MAX_BODY_BYTES = 4 * 1024 * 1024
TIMEOUTS_IN_A_ROW = 3

# SGLang's /health sleeps for a second, generates a token and may take 20 s (http_server.py).
_HEALTH_PATHS = {"openai": "/v1/models", "sglang": "/v1/models"}

log = structlog.get_logger(__name__)


class _Unhealthy(Exception):
    """The engine says that it cannot serve."""


class EnginePoller:
    """Reports an engine down at once where it refuses connections or says 503, and after three
    polls in a row without an answer: one slow answer is no reason to move its work away.

    `on_kv_moves` hears at each look how the instance copies KV caches, if it does; `arguments` are
    those that its pool gives it."""

    def __init__(
        self,
        instances: Callable[[], Sequence[Instance]],
        tell: Callable[[InstanceObserved], None],
        telemetry: Telemetry,
        *,
        on_kv_moves: Callable[[str, KvMoves], None] = lambda instance, kv_moves: None,
        arguments: Callable[[Instance], Sequence[str]] = lambda instance: (),
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._instances = instances
        self._tell = tell
        self._on_kv_moves = on_kv_moves
        self._arguments = arguments
        self._slot_layouts: dict[str, tuple[str, str]] = {}  # of llama-servers: address and word
        self._telemetry = telemetry
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._polling: dict[str, asyncio.Task[None]] = {}
        self._timeouts: dict[str, int] = {}
        self._down: set[str] = set()
        self._changed = asyncio.Event()

    def look_now(self) -> None:
        """The configuration changed: new instances need not wait for the next round."""
        self._changed.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                self._start_round(http, tasks)
                self._changed.clear()
                try:
                    async with asyncio.timeout(self._interval_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    def _start_round(self, http: "aiohttp.ClientSession", tasks: asyncio.TaskGroup) -> None:
        """One poll at a time per instance: a hanging engine does not pile polls up."""
        instances = {one.name: one for one in self._instances()}
        for gone in self._timeouts.keys() - instances.keys():
            del self._timeouts[gone]
        self._down &= instances.keys()
        self._slot_layouts = {n: it for n, it in self._slot_layouts.items() if n in instances}
        for name, instance in instances.items():
            if name not in self._polling:
                task = tasks.create_task(self._poll(http, instance))
                self._polling[name] = task
                task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, _: "asyncio.Task[None]") -> None:
        del self._polling[name]

    async def _poll(self, http: "aiohttp.ClientSession", instance: Instance) -> None:
        import aiohttp

        name = instance.name
        async with self._slots:
            try:
                load = await self._look(http, instance)
            except TimeoutError:
                self._timeouts[name] = self._timeouts.get(name, 0) + 1
                if self._timeouts[name] >= TIMEOUTS_IN_A_ROW:
                    self._report_down(instance, "timeout")
            except (aiohttp.ClientError, OSError):
                self._report_down(instance, "connection")
            except _Unhealthy:
                self._report_down(instance, "unhealthy")
            except ValueError:
                self._report_down(instance, "protocol")
            except Exception:  # a task's outermost level: one odd engine must not end all polls
                self._telemetry.internal_errors.labels("poll").inc()
                log.exception("scheduler.poll_failed", instance=name)
            else:
                self._timeouts.pop(name, None)
                self._report_up(instance, load)

    async def _look(self, http: "aiohttp.ClientSession", instance: Instance) -> EngineLoad:
        base = f"http://{instance.address}"
        # Not every OpenAI server has /health; one that asks for a key is alive, too.
        any_server = instance.engine_type == "openai"
        health = _HEALTH_PATHS.get(instance.engine_type, "/health")
        status, _ = await _get(http, f"{base}{health}")
        if status >= 500 or (status != 200 and not any_server):
            raise _Unhealthy
        status, body = await _get(http, f"{base}/metrics")
        if status != 200:  # an engine that publishes none is still healthy
            return EngineLoad()
        load = parse_metrics(body.decode("utf-8", "replace"))
        if instance.engine_type == "llamacpp":
            status, body = await _get(http, f"{base}/slots")
            load = with_slots(load, body) if status == 200 else load
            load = replace(load, kv_transport=await self._slot_layout(http, instance))
        return load

    async def _slot_layout(self, http: "aiohttp.ClientSession", instance: Instance) -> str:
        address, word = self._slot_layouts.get(instance.name, ("", ""))
        if address != instance.address:

            async def fetch(path: str, body: bytes | None) -> tuple[int, bytes]:
                return await _fetch(http, f"http://{instance.address}{path}", body)

            word = await slot_layout(fetch, self._arguments(instance))
            self._slot_layouts[instance.name] = (instance.address, word)
        return word

    def _report_up(self, instance: Instance, load: EngineLoad) -> None:
        if instance.name in self._down:
            self._down.discard(instance.name)
            log.info("engine.up", instance=instance.name, address=instance.address)
        self._tell(
            InstanceObserved(
                instance.name,
                healthy=True,
                running=load.running,
                waiting=load.waiting,
                kv_cache_usage=load.kv_cache_usage,
                kv_capacity_tokens=load.kv_capacity_tokens,
                kv_transport=load.kv_transport,
            )
        )
        self._on_kv_moves(instance.name, _kv_moves(instance, load))

    def _report_down(self, instance: Instance, reason: str) -> None:
        self._slot_layouts.pop(instance.name, None)  # it may come back as another
        self._telemetry.engine_polls_failed.labels(reason).inc()
        if instance.name not in self._down:
            self._down.add(instance.name)
            log.warning(
                "engine.down", instance=instance.name, address=instance.address, reason=reason
            )
        self._tell(InstanceObserved(instance.name, healthy=False))


def _kv_moves(instance: Instance, load: EngineLoad) -> KvMoves:
    """llama-servers save slots over HTTP; others have a port of its own for moves."""
    if not load.kv_transport or instance.engine_type == "llamacpp":
        return KvMoves(load.kv_transport, instance.address if load.kv_transport else "")
    return KvMoves(load.kv_transport, f"{instance.address.rpartition(':')[0]}:{load.moves_port}")


async def _get(http: "aiohttp.ClientSession", url: str) -> tuple[int, bytes]:
    return await _fetch(http, url, None)


async def _fetch(http: "aiohttp.ClientSession", url: str, body: bytes | None) -> tuple[int, bytes]:
    """A POST where there is a body. Raises `TimeoutError`, `aiohttp.ClientError`, `ValueError` (an
    answer beyond the limit)."""
    method = "GET" if body is None else "POST"
    async with http.request(method, url, data=body, allow_redirects=False) as reply:
        return reply.status, await _body(reply)


async def _body(reply: "aiohttp.ClientResponse") -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ValueError(f"{reply.url.path}: more than {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
