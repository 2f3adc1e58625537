"""The scheduler process: builds the parts, hands them down, runs until it is told to stop."""

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import structlog
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.logs import configure_logging
from shunter_runtime.loop import run as run_loop
from shunter_runtime.metrics import port_of, serve_metrics
from shunter_runtime.signals import stop_signals
from shunter_runtime.tls import TlsError, TlsFiles
from shunter_runtime.tracing import build_tracer_provider, shutdown_tracing
from shunter_scheduler.cluster_telemetry import ClusterCollector
from shunter_scheduler.core import CoreSettings, SchedulerCore
from shunter_scheduler.core.costs import profile_cost
from shunter_scheduler.core.settings import Moves
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.decisions import MovePolicyName
from shunter_scheduler.domain.events import TopologyChanged
from shunter_scheduler.inputs import Changes, open_inputs
from shunter_scheduler.options import SchedulerOptions, StartError, lease_or_default
from shunter_scheduler.role import Role
from shunter_scheduler.service.engines import EnginePoller
from shunter_scheduler.service.errors import ShuttingDown
from shunter_scheduler.service.kv_events import KvEventReader
from shunter_scheduler.service.later import Later
from shunter_scheduler.service.leadership import Leadership
from shunter_scheduler.service.leaving import empty_leaving
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.service.parts import Parts
from shunter_scheduler.service.replies import KvMoves
from shunter_scheduler.service.server import Listening, start_server
from shunter_scheduler.service.servicer import SchedulerService
from shunter_scheduler.service.sessions import Sessions
from shunter_scheduler.service.spans import DispatchSpans
from shunter_scheduler.service.speeds import speeds_of
from shunter_scheduler.service.unary import UnaryRequests
from shunter_scheduler.service.view import ClusterView
from shunter_scheduler.sources.files import ConfigRefused
from shunter_scheduler.sources.shapes import shape_of
from shunter_scheduler.telemetry import Telemetry

SHUTDOWN_GRACE_S = 1.0
GATHER_S = 0.1  # at its start all engines of a fleet are news within one look
__all__ = ["SchedulerOptions", "StartError", "main", "run", "serve"]

log = structlog.get_logger(__name__)

Looks = tuple[EnginePoller, KvEventReader]  # what looks at engines


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
    async with open_inputs(options) as inputs, AsyncExitStack() as stack:
        first = await _first(inputs.changes, stop)
        if first is None:
            return
        parts, looks = build(options, provider, inputs.leadership)
        stack.push_async_callback(_close, parts)
        _change(parts, looks, first)
        listening = await _listen(options, parts, stack, stop)
        role = Role(parts, listening, stop)
        async with asyncio.TaskGroup() as tasks:
            outlets = (parts.spans.decided, parts.sessions.route, parts.unary.resolve)
            owned = [
                tasks.create_task(parts.driver.run(outlets)),
                tasks.create_task(_follow(inputs.changes, parts, looks)),
                *(tasks.create_task(look.run()) for look in looks),
                tasks.create_task(role.run()),
            ]
            if inputs.election is not None:
                owned.append(tasks.create_task(inputs.election.run(role.changed)))
            await role.show()
            log.info("scheduler.serving", listen=options.listen, port=listening.port)
            started(listening)
            await stop.wait()
            log.info("scheduler.stopping")
            await role.show()
            parts.sessions.close(ShuttingDown("the scheduler shuts down"))
            if inputs.election is not None:
                await _hand_over(inputs.election, owned.pop())
            await listening.server.stop(SHUTDOWN_GRACE_S)
            for task in owned:
                task.cancel()


async def _first(changes: Changes, stop: asyncio.Event) -> Topology | None:
    """The first configuration; None where the process is told to stop before there is one. Raises
    `StartError` where it is refused."""

    async def read() -> Topology | ConfigRefused:
        return await anext(changes)

    reading, stopping = asyncio.create_task(read()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return None
        first = reading.result()
        if isinstance(first, ConfigRefused):
            raise StartError(str(first))
        return first
    finally:
        reading.cancel()
        stopping.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)


async def _hand_over(election: LeaderElection, task: "asyncio.Task[None]") -> None:
    """The standby need not wait for the Lease to run out."""
    task.cancel()
    await asyncio.wait((task,))
    await election.release()


def settings_of(options: SchedulerOptions) -> CoreSettings:
    return CoreSettings(moves=Moves(policy=options.moves))


def build(
    options: SchedulerOptions, provider: TracerProvider, leadership: Leadership
) -> tuple[Parts, Looks]:
    """The object graph, without any I/O."""
    settings = settings_of(options)
    telemetry = Telemetry(CollectorRegistry())
    costs = partial(profile_cost, shape_of=partial(shape_of, environ=os.environ))
    core = SchedulerCore(settings, np.random.default_rng(), costs)
    driver = Driver(core, time.monotonic, telemetry)
    view = ClusterView(settings.block_tokens, partial(speeds_of, costs=costs))
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
        leadership=leadership,
    )

    told = Later(lambda: parts.sessions.broadcast(view.message), GATHER_S)

    def on_kv_moves(instance: str, kv_moves: KvMoves) -> None:
        if view.set_kv_moves(instance, kv_moves):
            told.wish()

    def arguments(instance: Instance) -> Sequence[str]:
        pools = (pool for pool in view.topology.pools if pool.name == instance.pool)
        return next((pool.spec.engine.args for pool in pools), ())

    poller = EnginePoller(
        lambda: view.topology.instances,
        driver.tell,
        telemetry,
        on_kv_moves=on_kv_moves,
        arguments=arguments,
    )
    return parts, (poller, KvEventReader(lambda: view.topology, driver.put, telemetry))


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
                healthy=lambda: not stop.is_set(),
                ready=lambda: not stop.is_set() and parts.leadership.term is not None,
            )
            stack.push_async_callback(runner.cleanup)
            log.info("scheduler.metrics", port=port_of(runner))
    except (OSError, TlsError) as error:
        raise StartError(str(error)) from error
    return listening


async def _follow(changes: Changes, parts: Parts, looks: Looks) -> None:
    async for change in changes:
        if isinstance(change, ConfigRefused):
            parts.view.config_error = str(change)
            parts.telemetry.config_refused.inc()
        else:
            _change(parts, looks, change)


def _change(parts: Parts, looks: Looks, topology: Topology) -> None:
    parts.view.change(topology)
    parts.driver.tell_now(TopologyChanged(topology))
    empty_leaving(parts)
    parts.sessions.broadcast(parts.view.message)
    for look in looks:
        look.look_now()


def parse_arguments(arguments: list[str]) -> SchedulerOptions:
    """Raises `TlsError`; argparse ends the process for anything else that is wrong."""
    parser = argparse.ArgumentParser(prog="shunter scheduler", description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, nargs="+", default=[], help="YAML files or directories")
    add("--kubernetes", action="store_true", help="read the configuration from the cluster")
    add("--namespace", action="append", default=[], help="only there; may be given several times")
    add("--lease", help="[NAMESPACE/]NAME; with --kubernetes shunter-scheduler, else none")
    add("--listen", default="127.0.0.1:50051", metavar="HOST:PORT")
    add("--metrics-port", type=int, help="serve /metrics, /health and /ready there")
    add("--tls-cert", type=Path, help="PEM file; needs --tls-key")
    add("--tls-key", type=Path)
    add("--tls-ca", type=Path, help="clients must show a certificate signed by it")
    moves = get_args(MovePolicyName)
    add("--moves", choices=moves, default="predicted-gain", help="what moves running requests")
    add("--log-level", default="info")
    given = parser.parse_args(arguments)
    tls = TlsFiles(given.tls_cert, given.tls_key, given.tls_ca) if given.tls_cert else None
    return SchedulerOptions(
        config=tuple(given.config),
        kubernetes=given.kubernetes,
        namespaces=tuple(given.namespace),
        lease=lease_or_default(given.lease, given.kubernetes),
        listen=given.listen,
        metrics_port=given.metrics_port,
        tls=tls,
        moves=given.moves,
        log_level=given.log_level,
    )


def main() -> int:
    try:
        run(parse_arguments(sys.argv[1:]))
    except (StartError, TlsError, ValueError) as error:
        sys.stderr.write(f"shunter scheduler: {error}\n")
        return 2
    return 0
