"""The operator process: builds the parts, hands them down, runs until it is told to stop."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

import kopf
import structlog
from prometheus_client import CollectorRegistry

from shunter_api.validate import Known
from shunter_operator.admission.service import Place, WebhookOptions, Webhooks
from shunter_operator.background import meanwhile
from shunter_operator.cluster import ClusterError
from shunter_operator.controller import Controller, Pace
from shunter_operator.from_zero import wake_held
from shunter_operator.handlers import registry_of, settings_of
from shunter_operator.kubernetes import (
    KubernetesCluster,
    knows_deletion_cost,
    knows_unhealthy_eviction,
    pdb_api_version,
    server_version,
)
from shunter_operator.leadership import Term, leadership, wind_down
from shunter_operator.names import PoolKey, Ref
from shunter_operator.nodes import NOTICE_TAINTS, followed_nodes, kept_right, may_watch_nodes
from shunter_operator.own_namespace import until_deleted
from shunter_operator.reconcile import Outside, Reconciler
from shunter_operator.scheduler_client import SchedulerClient
from shunter_operator.telemetry import Telemetry
from shunter_operator.values import Environment, Node
from shunter_operator.watches import Watches
from shunter_runtime.kube_access import KubeAccess, KubeAccessError, find_access
from shunter_runtime.kube_api import KubeApi, KubeError, kube_api
from shunter_runtime.lease_kubernetes import KubernetesLease
from shunter_runtime.logs import configure_logging
from shunter_runtime.loop import run as run_loop
from shunter_runtime.metrics import port_of, serve_metrics
from shunter_runtime.signals import listen, stop_signals
from shunter_runtime.tls import TlsFiles, channel_credentials

LEASE = "shunter-operator"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """`namespaces` empty: the whole cluster. `metrics_port` 0: the system chooses."""

    image: str  # of simulated and numpy engines
    engine_images: Mapping[str, str] = field(default_factory=dict)  # by engine type
    image_pull_policy: str = "IfNotPresent"
    priority_classes: Mapping[str, str] = field(default_factory=dict)  # low, standard, high
    namespaces: tuple[str, ...] = ()
    scheduler: str = "shunter-scheduler:50051"
    scheduler_tls: TlsFiles | None = None
    endpoint: str = ""  # the gateway's URL, shown in status
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9090
    pace: Pace = field(default_factory=Pace)
    log_level: str = "info"
    leader_election: bool = True
    lease_namespace: str = ""  # empty: the process's own
    notice_taints: tuple[str, ...] = NOTICE_TAINTS  # of nodes that end soon
    known: Known = field(default_factory=Known)  # what resources may ask for
    webhooks: WebhookOptions | None = None


class StartError(Exception):
    """The process cannot start: no cluster, or a port that is taken."""


def run(options: OperatorOptions) -> None:
    """Works until SIGTERM or SIGINT. Raises `StartError`."""
    configure_logging(options.log_level)

    async def main() -> None:
        with stop_signals() as stop:
            await serve(options, stop)

    run_loop(main())


async def serve(
    options: OperatorOptions,
    stop: asyncio.Event,
    started: Callable[[int], None] = lambda _: None,
) -> None:
    """Stands by until it leads, then works until it is told to stop. Where it has lost the lead it
    stands by again, with nothing left of the term before; webhooks are served all the time.
    `started` gets the metrics port each time the watches are about to run. Raises `StartError`."""
    async with AsyncExitStack() as stack:
        try:
            access = find_access(os.environ)
            api = await stack.enter_async_context(kube_api(access))
            environment = await _environment(options, api)
        except (KubeAccessError, ClusterError) as error:
            raise StartError(str(error)) from error
        telemetry = Telemetry(CollectorRegistry())
        webhooks = Webhooks(options.webhooks)
        port = await _metrics(options, telemetry, webhooks, stop, stack)
        namespace = options.lease_namespace or api.namespace
        try:
            version = await server_version(api)
            place = Place(namespace, options.namespaces, version, options.known)
            await stack.enter_async_context(webhooks.running(api, place, telemetry, stop))
        except (ClusterError, KubeError, OSError) as error:
            raise StartError(f"the webhooks: {error}") from error
        await stack.enter_async_context(kept_right(api, environment.watches_nodes, stop))
        ground = Ground(options, access, api, environment, telemetry, stop)
        while not stop.is_set():
            lease = KubernetesLease(api, namespace, LEASE)
            election = leadership(lease, telemetry, stop) if options.leader_election else None
            async with election or nullcontext(Term(stop)) as term:
                if not term.over.is_set():
                    webhooks.lead(True)
                    await _term(ground, term, lambda: started(port))
            webhooks.lead(False)
        log.info("operator.stopping")


@dataclass(frozen=True, slots=True)
class Ground:
    """What all terms of leading have in common."""

    options: OperatorOptions
    access: KubeAccess
    api: KubeApi
    environment: Environment
    telemetry: Telemetry
    stop: asyncio.Event  # the process


async def _term(ground: Ground, term: Term, started: Callable[[], None]) -> None:
    """Leads until it is over: the lead is lost, or the process is told to stop."""
    options, api, over = ground.options, ground.api, term.over
    parts = Parts.build(ground, term)
    async with AsyncExitStack() as stack:
        stack.callback(ground.telemetry.resources.set, 0)
        if ground.environment.watches_nodes:
            followed = followed_nodes(api, options.notice_taints, parts.tell_of_nodes, over)
            await stack.enter_async_context(followed)
        wakes = parts.pools.wake, parts.policies.wake
        registry = registry_of(ground.access, parts.watches, *wakes, options.known)
        await stack.enter_async_context(_last_will(ground, parts))
        await _work(ground, parts, registry, over, started)


@dataclass(frozen=True, slots=True)
class Parts:
    """The object graph of a leader."""

    watches: Watches
    reconciler: Reconciler
    pools: Controller[PoolKey]
    policies: Controller[Ref]
    scheduler: SchedulerClient

    @classmethod
    def build(cls, ground: Ground, term: Term) -> "Parts":
        options, environment, telemetry = ground.options, ground.environment, ground.telemetry
        tls = options.scheduler_tls
        scheduler = SchedulerClient(options.scheduler, channel_credentials(tls) if tls else None)
        watches = Watches()
        cluster = KubernetesCluster(ground.api, environment.pdb_api_version, term.holds)
        outside = Outside(cluster, watches, scheduler, lambda: datetime.now(UTC))
        reconciler = Reconciler(outside, environment, telemetry)
        pools = Controller(reconciler.reconcile, telemetry, options.pace)
        policies = Controller(reconciler.reconcile_policy, telemetry, options.pace)
        return cls(watches, reconciler, pools, policies, scheduler)

    def tell_of_nodes(self, leaving: Mapping[str, Node]) -> None:
        for key in self.watches.set_nodes(leaving):
            self.pools.wake(key)


async def _work(
    ground: Ground,
    parts: Parts,
    registry: kopf.OperatorRegistry,
    over: asyncio.Event,
    started: Callable[[], None],
) -> None:
    """Until it is `over`. What kopf dies of is raised."""
    namespaces = ground.options.namespaces
    try:
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(c.run()) for c in (parts.pools, parts.policies)]
            watching = await kopf.spawn_tasks(
                registry=registry,
                settings=settings_of(namespaces),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=namespaces,
                stop_flag=over,
            )
            listen(ground.stop)  # kopf has taken the signals, which would end this term only
            log.info("operator.watching", namespaces=namespaces or "all")
            held = wake_held(parts.watches, parts.scheduler, parts.pools.wake)
            working.append(tasks.create_task(held))
            started()
            await wind_down(watching, working)
    finally:
        await parts.scheduler.close()


@asynccontextmanager
async def _last_will(ground: Ground, parts: Parts) -> AsyncIterator[None]:
    """Meanwhile, if the own namespace is deleted, no pool waits for this operator any more."""
    namespace = ground.options.lease_namespace or ground.api.namespace

    async def wait() -> None:
        await until_deleted(ground.api, namespace)
        log.warning("operator.namespace_deleted", namespace=namespace)
        await parts.reconciler.retire()

    async with meanwhile(wait(), "own namespace"):
        yield


async def _environment(options: OperatorOptions, api: KubeApi) -> Environment:
    """What pods are to be like on this cluster. Raises `ClusterError`."""
    version, watches_nodes = await server_version(api), await may_watch_nodes(api)
    if not watches_nodes:
        log.warning("nodes.not_watched", remedy="grant get, list and watch on nodes to drain nodes")
    return Environment(
        image=options.image,
        engine_images=options.engine_images,
        image_pull_policy=options.image_pull_policy,
        priority_classes=options.priority_classes,
        pdb_api_version=await pdb_api_version(api),
        deletion_cost=knows_deletion_cost(version),
        unhealthy_eviction=knows_unhealthy_eviction(version),
        watches_nodes=watches_nodes,
        endpoint=options.endpoint,
    )


async def _metrics(
    options: OperatorOptions,
    telemetry: Telemetry,
    webhooks: Webhooks,
    stop: asyncio.Event,
    stack: AsyncExitStack,
) -> int:
    """A replica is ready once the API server can call its webhooks. Raises `StartError`."""
    try:
        runner = await serve_metrics(
            telemetry.registry,
            options.metrics_host,
            options.metrics_port,
            lambda: not stop.is_set(),
            lambda: not stop.is_set() and webhooks.ready,
        )
    except OSError as error:
        raise StartError(str(error)) from error
    stack.push_async_callback(runner.cleanup)
    return port_of(runner)
