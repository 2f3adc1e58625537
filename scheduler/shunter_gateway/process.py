"""One gateway process: its parts, built and ended in order."""

import asyncio
import os
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import structlog
from opentelemetry.trace import Tracer, TracerProvider

from shunter_gateway.config import GatewayOptions, StartError
from shunter_gateway.dispatcher import OTHER_PHASE, PHASES, Dispatcher
from shunter_gateway.edge.front import EdgeParts, EdgeSettings, Front
from shunter_gateway.edge.grpc_listen import GrpcListener
from shunter_gateway.edge.job import Limits
from shunter_gateway.edge.listen import HttpListener
from shunter_gateway.edge.live_models import LiveModels
from shunter_gateway.edge.server import HttpEdge
from shunter_gateway.edge.stream import StreamSettings
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.kv_moves import GrpcEngineMoves
from shunter_gateway.engines.llama_slots import LlamaSlots
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.keys import KeyFile, KeyFileError, Keys, OpenKeys
from shunter_gateway.lifecycle_metrics import MetricsObserver
from shunter_gateway.scheduler_client import SchedulerClient, SchedulerTarget
from shunter_gateway.telemetry import GatewayMetrics
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.worker_metrics import WorkerMetrics
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_runtime.logs import configure_logging
from shunter_runtime.loop import run as run_loop
from shunter_runtime.signals import stop_signals
from shunter_runtime.tls import TlsError, channel_credentials, server_ssl_context
from shunter_runtime.tracing import build_tracer_provider, is_recording, shutdown_tracing

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a started gateway listens; `grpc` 0: nowhere."""

    http: int
    grpc: int


@dataclass(frozen=True, slots=True)
class _Core:
    """What stands behind the edge."""

    metrics: GatewayMetrics
    pages: WorkerMetrics
    link: SchedulerClient
    dispatcher: Dispatcher
    tokenizers: TokenizerRegistry
    models: LiveModels
    slots: LlamaSlots | None


class _Listener:
    """Hears the scheduler: the dispatcher, and the tokenizers where the topology changed."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def on_commands(self, commands: pb.SchedulerCommands) -> None:
        before = self._core.dispatcher.topology
        self._core.dispatcher.on_commands(commands)
        after = self._core.dispatcher.topology
        if after is not None and after is not before:
            self._core.tokenizers.update(after)

    def on_session(self) -> None:
        self._core.dispatcher.on_session()


def run_one(options: GatewayOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises `StartError`."""
    configure_logging(options.log_level)

    async def main() -> None:
        provider = build_tracer_provider("shunter-gateway", os.environ)
        try:
            with stop_signals() as stop:
                await serve(options, stop, provider)
        finally:
            await asyncio.to_thread(shutdown_tracing, provider)

    run_loop(main())


async def serve(
    options: GatewayOptions,
    stop: asyncio.Event,
    provider: TracerProvider,
    started: Callable[[Ports], None] = lambda _: None,
) -> None:
    """Until `stop` is set; then answers finish within the grace. Raises `StartError`."""
    async with AsyncExitStack() as stack:
        core = await _core(options, stack, provider)
        keys = _keys(options, core.metrics)
        front = _front(options, core, keys, provider)
        http = HttpListener(HttpEdge(front), _http_tls(options))
        grpc = GrpcListener(front, options.tls)
        stack.push_async_callback(grpc.close)
        stack.push_async_callback(http.close)
        ports = await _listen(options, http, grpc)
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(core.link.run(_Listener(core))),
                tasks.create_task(core.dispatcher.run()),
            ]
            if core.slots is not None:
                owned.append(tasks.create_task(core.slots.run()))
            if isinstance(keys, KeyFile):
                owned.append(tasks.create_task(keys.watch()))
            _log.info("gateway_serving", http=ports.http, grpc=ports.grpc, pid=os.getpid())
            started(ports)
            await stop.wait()
            _log.info("gateway_stopping", inflight=front.inflight, grace_s=options.grace_s)
            await http.stop_accepting()
            await grpc.stop_accepting()
            await front.drain(options.grace_s)
            core.dispatcher.close()
            await asyncio.sleep(0)  # the last errors leave before their sockets close
            for task in owned:
                task.cancel()


async def _core(options: GatewayOptions, stack: AsyncExitStack, provider: TracerProvider) -> _Core:
    metrics = GatewayMetrics()
    pages = WorkerMetrics(metrics.registry, options.worker_dir)
    await pages.start()
    stack.push_async_callback(pages.close)
    client = HttpClient()
    stack.push_async_callback(client.close)
    adapters = build_adapters(client)
    tokenizers = TokenizerRegistry(
        adapters, observe=lambda pool, differs: metrics.tokenizer_mismatch.labels(pool).set(differs)
    )
    stack.push_async_callback(tokenizers.close)
    engine_moves = _engine_moves(options)
    stack.push_async_callback(engine_moves.close)
    slots = LlamaSlots(client, options.slot_folder) if options.slot_folder is not None else None
    if slots is not None:
        stack.push_async_callback(slots.close)
    link = SchedulerClient(_target(options))
    metrics.scheduler_connected.set_function(lambda: float(link.lost_since is None))
    dispatcher = Dispatcher(
        clock=asyncio.get_running_loop(),
        link=link,
        adapters=adapters,
        decoders=tokenizers,
        observer=MetricsObserver(metrics),
        tracer=_tracer(provider) if is_recording(provider) else None,
        engine_moves=engine_moves,
        slot_servers=slots,
        connect=client.prepare,
    )
    for phase in (*PHASES, OTHER_PHASE):
        metrics.waiting.labels(phase).set_function(partial(dispatcher.waiting_in, phase))
    models = LiveModels(
        topology=lambda: dispatcher.topology,
        tokenizers=tokenizers,
        adapters=adapters,
        rng=random.SystemRandom(),
        now=lambda: datetime.now(UTC),
    )
    return _Core(metrics, pages, link, dispatcher, tokenizers, models, slots)


def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("shunter_gateway")


def _engine_moves(options: GatewayOptions) -> GrpcEngineMoves:
    try:
        return GrpcEngineMoves(options.moves_tls)
    except TlsError as error:
        raise StartError(str(error)) from error


def _target(options: GatewayOptions) -> SchedulerTarget:
    tls = options.scheduler_tls
    try:
        credentials = channel_credentials(tls) if tls is not None else None
    except TlsError as error:
        raise StartError(str(error)) from error
    return SchedulerTarget(
        address=options.scheduler,
        gateway_id=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        version=version("shunter"),
        credentials=credentials,
    )


def _keys(options: GatewayOptions, metrics: GatewayMetrics) -> Keys:
    if options.api_keys is None:
        return OpenKeys()
    try:
        return KeyFile(options.api_keys, lambda outcome: metrics.key_reloads.labels(outcome).inc())
    except KeyFileError as error:
        raise StartError(str(error)) from error


def _front(options: GatewayOptions, core: _Core, keys: Keys, provider: TracerProvider) -> Front:
    parts = EdgeParts(
        runner=core.dispatcher,
        models=core.models,
        keys=keys,
        metrics=core.metrics,
        tracer=_tracer(provider),
        new_id=lambda: f"req-{secrets.token_hex(12)}",
        ready=core.models.ready,
        metrics_page=core.pages.page,
    )
    limits = Limits(max_body_bytes=options.max_body_bytes)
    settings = EdgeSettings(
        limits=limits,
        stream=StreamSettings(keep_alive_s=options.keep_alive_s),
        max_inflight=options.max_inflight,
        max_inflight_bytes=options.max_inflight_bytes,
    )
    return Front(parts, settings)


def _http_tls(options: GatewayOptions) -> ssl.SSLContext | None:
    if options.tls is None:
        return None
    try:
        return server_ssl_context(options.tls)
    except TlsError as error:
        raise StartError(str(error)) from error


async def _listen(options: GatewayOptions, http: HttpListener, grpc: GrpcListener) -> Ports:
    shared = options.workers > 1
    address, grpc_address = options.http_address, options.grpc_address
    try:
        http_port = await http.start(address.host, address.port, shared)
        grpc_port = await grpc.start(str(grpc_address), shared) if grpc_address else 0
    except (OSError, TlsError) as error:
        raise StartError(f"{error}: choose another --listen or --grpc-listen") from error
    return Ports(http_port, grpc_port)
