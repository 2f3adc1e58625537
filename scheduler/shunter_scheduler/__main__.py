"""The scheduler process: builds the parts, hands them down, runs until it is told to stop."""

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from shunter_runtime.logs import configure_logging
from shunter_runtime.loop import run as run_loop
from shunter_runtime.metrics import port_of, serve_metrics
from shunter_runtime.signals import stop_signals
from shunter_runtime.tls import TlsError, TlsFiles
from shunter_runtime.tracing import build_tracer_provider, shutdown_tracing
from shunter_scheduler.core import CoreSettings, SchedulerCore
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.events import TopologyChanged
from shunter_scheduler.service.engines import EnginePoller
from shunter_scheduler.service.errors import ShuttingDown
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.service.parts import Parts
from shunter_scheduler.service.server import Listening, start_server
from shunter_scheduler.service.servicer import SchedulerService
from shunter_scheduler.service.sessions import GRACE_S, Sessions
from shunter_scheduler.service.spans import DispatchSpans
from shunter_scheduler.service.speeds import speeds_of
from shunter_scheduler.service.unary import LEASE_S, UnaryRequests
from shunter_scheduler.service.view import ClusterView
from shunter_scheduler.sources.files import ConfigRefused, FileSource
from shunter_scheduler.telemetry import ClusterCollector, Telemetry

SHUTDOWN_GRACE_S = 1.0
Changes = AsyncGenerator[Topology | ConfigRefused]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """`metrics_port` None serves no metrics; port 0, here as in `listen`: the system chooses."""

    config: tuple[Path, ...]
    listen: str = "127.0.0.1:50051"
    metrics_port: int | None = None
    tls: TlsFiles | None = None
    grace_s: float = GRACE_S
    lease_s: float = LEASE_S
    log_level: str = "info"

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")


class StartError(Exception):
    """The process cannot start: the configuration is refused, or a port or certificate is bad."""


def run(options: SchedulerOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises `StartError`."""
    configure_logging(options.log_level)

    async def main() -> None:
        provider = build_tracer_provider("shunter-scheduler", os.environ)
        try:
            with stop_signals() as stop:
                await serve(options, stop, provider, lambda _: _relax_garbage_collection())
        finally:
            await asyncio.to_thread(shutdown_tracing, provider)

    run_loop(main())


async def serve(
    options: SchedulerOptions,
    stop: asyncio.Event,
    provider: TracerProvider,
    started: Callable[[Listening], None] = lambda _: None,
) -> None:
    """Listens once a configuration is read, so that no gateway is told of an empty one.

    `started` is called when it serves; `provider` is the caller's to shut down. Raises
    `StartError`.
    """
    source = FileSource(options.config)
    async with aclosing(source.changes()) as changes, AsyncExitStack() as stack:
        first = await anext(changes)
        if isinstance(first, ConfigRefused):
            raise StartError(str(first))
        parts, poller = build(options, provider)
        stack.push_async_callback(_close, parts)
        _change(parts, poller, first)
        listening = await _listen(options, parts, stack, stop)
        async with asyncio.TaskGroup() as tasks:
            owned = (
                tasks.create_task(
                    parts.driver.run(
                        (parts.spans.decided, parts.sessions.route, parts.unary.resolve)
                    )
                ),
                tasks.create_task(_follow(changes, parts, poller)),
                tasks.create_task(poller.run()),
            )
            await listening.set_serving(True)
            log.info("scheduler.serving", listen=options.listen, port=listening.port)
            started(listening)
            await stop.wait()
            log.info("scheduler.stopping")
            await listening.set_serving(False)
            parts.sessions.close(ShuttingDown("the scheduler shuts down"))
            await listening.server.stop(SHUTDOWN_GRACE_S)
            for task in owned:
                task.cancel()


def build(options: SchedulerOptions, provider: TracerProvider) -> tuple[Parts, EnginePoller]:
    """The object graph, without any I/O."""
    settings = CoreSettings()
    telemetry = Telemetry(CollectorRegistry())
    core = SchedulerCore(settings, np.random.default_rng())
    driver = Driver(core, time.monotonic, telemetry)
    view = ClusterView(settings.block_tokens, speeds_of)
    telemetry.registry.register(ClusterCollector(lambda: core.status(time.monotonic())))

    def policy_of(request_id: str) -> str:
        explanation = core.explain(request_id, time.monotonic())
        return explanation.decisions[-1].policy if explanation and explanation.decisions else ""

    parts = Parts(
        driver=driver,
        sessions=Sessions(driver, telemetry, grace_s=options.grace_s),
        unary=UnaryRequests(driver, telemetry, lease_s=options.lease_s),
        view=view,
        spans=DispatchSpans(provider, policy_of),
        telemetry=telemetry,
    )
    return parts, EnginePoller(lambda: view.topology.instances, driver.tell, telemetry)


def _relax_garbage_collection() -> None:
    """Cycles are rare here, records of requests many: at the defaults collections take a tenth of
    the CPU. What start-up made is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _close(parts: Parts) -> None:
    parts.unary.close()
    parts.spans.close()


async def _listen(
    options: SchedulerOptions, parts: Parts, stack: AsyncExitStack, stop: asyncio.Event
) -> Listening:
    """Raises `StartError`."""
    try:
        listening = await start_server(SchedulerService(parts), options.listen, options.tls)
        stack.push_async_callback(listening.server.stop, None)
        if options.metrics_port is not None:
            runner = await serve_metrics(
                parts.telemetry.registry,
                options.host,
                options.metrics_port,
                lambda: not stop.is_set(),
            )
            stack.push_async_callback(runner.cleanup)
            log.info("scheduler.metrics", port=port_of(runner))
    except (OSError, TlsError) as error:
        raise StartError(str(error)) from error
    return listening


async def _follow(changes: Changes, parts: Parts, poller: EnginePoller) -> None:
    async for change in changes:
        if isinstance(change, ConfigRefused):
            parts.view.config_error = str(change)
            parts.telemetry.config_refused.inc()
        else:
            _change(parts, poller, change)


def _change(parts: Parts, poller: EnginePoller, topology: Topology) -> None:
    parts.view.change(topology)
    parts.driver.tell_now(TopologyChanged(topology))
    parts.sessions.broadcast(parts.view.message)
    poller.look_now()


def parse_arguments(arguments: list[str]) -> SchedulerOptions:
    """Raises `TlsError`; argparse ends the process for anything else that is wrong."""
    parser = argparse.ArgumentParser(prog="shunter scheduler", description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, nargs="+", required=True, help="YAML files or directories")
    add("--listen", default="127.0.0.1:50051", metavar="HOST:PORT")
    add("--metrics-port", type=int, help="serve /metrics and /health there")
    add("--tls-cert", type=Path, help="PEM file; needs --tls-key")
    add("--tls-key", type=Path)
    add("--tls-ca", type=Path, help="clients must show a certificate signed by it")
    add("--log-level", default="info")
    given = parser.parse_args(arguments)
    tls = TlsFiles(given.tls_cert, given.tls_key, given.tls_ca) if given.tls_cert else None
    return SchedulerOptions(
        config=tuple(given.config),
        listen=given.listen,
        metrics_port=given.metrics_port,
        tls=tls,
        log_level=given.log_level,
    )


def main() -> int:
    try:
        run(parse_arguments(sys.argv[1:]))
    except (StartError, TlsError, ValueError) as error:
        sys.stderr.write(f"shunter scheduler: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
