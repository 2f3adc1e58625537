"""One pass over one pool: read, plan, carry out."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

import structlog

from shunter_api.modelpool import ModelPool
from shunter_api.problems import Problem
from shunter_api.status import PoolStatus
from shunter_operator import scaling
from shunter_operator.cluster import Cluster, ClusterError, Mirror, PoolRecord
from shunter_operator.conditions import refused_status
from shunter_operator.conflicts import conflict_of
from shunter_operator.evictions import let_pass
from shunter_operator.giving import Giving
from shunter_operator.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAIN_REASON,
    ANNOTATION_DRAIN_SINCE,
    ANNOTATION_LEAVE_SINCE,
    DRAINED_DELETION_COST,
    FINALIZER,
    LABEL_BUSY,
    LABEL_ROLE,
    READINESS_GATE,
    PoolKey,
    Ref,
)
from shunter_operator.plan import plan
from shunter_operator.pods import moment, time_text
from shunter_operator.policies import in_force, missing_references, policy_status, unreached
from shunter_operator.scheduler_client import SchedulerPort, SchedulerUnavailable
from shunter_operator.scheduler_view import SchedulerView
from shunter_operator.telemetry import Telemetry
from shunter_operator.values import (
    Action,
    Apply,
    Delete,
    Desired,
    Drain,
    Enough,
    Environment,
    Event,
    Manifest,
    MarkDrained,
    MarkLeaving,
    MarkVictim,
    Observed,
    SetBusy,
    SetFinalizer,
    SetInService,
    SetRole,
    SetStatus,
    Undrain,
    Unmark,
)
from shunter_operator.written import policy_status_of, pool_status_of, status_patch

log = structlog.get_logger(__name__)

RETIRE_PAUSE_S = 0.2  # until the watches have brought what was written

_MARKS = (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAIN_REASON,
    ANNOTATION_DRAIN_SINCE,
    ANNOTATION_LEAVE_SINCE,
)


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything that a pass talks to."""

    cluster: Cluster
    mirror: Mirror
    scheduler: SchedulerPort
    clock: Callable[[], datetime]  # the time of day, with a time zone


@dataclass(slots=True)
class _Memory:
    """What only a running operator knows of a pool. To lose it delays a scale-down, no more."""

    enough_since: Mapping[str, Enough]
    status_set_at: datetime | None = None


class Reconciler:
    """Passes of different pools may run at the same time, those of one pool may not."""

    def __init__(self, outside: Outside, environment: Environment, telemetry: Telemetry) -> None:
        self._outside = outside
        self._environment = environment
        self._telemetry = telemetry
        self._memory: dict[PoolKey, _Memory] = {}
        self._retired = False
        self._giving = Giving(outside.mirror, outside.clock)

    async def reconcile(self, key: PoolKey) -> int | None:
        """How many actions it took; None where there is no such pool. Raises `ClusterError`."""
        view = await self._outside.scheduler.view(key.name)
        ends = await self._namespace_ends(key)
        record = self._outside.mirror.pool(key)  # only now: the rest looks at one moment
        if record is None:
            self._memory.pop(key, None)
            return None
        if self._retired:
            return 0
        actions = self._plan(record, view, ends)
        for action in actions:
            await self._carry_out(record, action)
            self._telemetry.actions.labels(type(action).__name__).inc()
        return len(actions)

    async def reconcile_policy(self, ref: Ref) -> int | None:
        """As `reconcile`, for a RoutingPolicy: it only gets a status."""
        mirror = self._outside.mirror
        record = next((r for r in mirror.policies() if r.ref == ref), None)
        if record is None:
            return None
        if record.policy is None:
            trouble: tuple[str, str] | None = ("InvalidSpec", _told(record.problems))
        else:
            policies = [r.policy for r in mirror.policies() if r.policy is not None]
            pools = {r.key.name for r in mirror.pools()}
            trouble = missing_references(record.policy, pools, policies) or unreached(
                record.policy, policies
            )
        before = policy_status_of(record.body)
        generation = record.body["metadata"].get("generation", 1)
        status = policy_status(trouble, before, generation, self._outside.clock())
        if status == before:
            return 0
        patch = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        await self._outside.cluster.merge(ref, {"status": patch}, "status")
        self._telemetry.actions.labels(SetStatus.__name__).inc()
        return 1

    async def retire(self) -> None:
        """The operator's own namespace is deleted: lets go of every pool, and of the disruption
        budgets that only an operator opens, and does nothing else any more. Runs until all is
        done, or it is cancelled."""
        self._retired = True
        mirror, cluster = self._outside.mirror, self._outside.cluster
        while held := [record for record in mirror.pools() if _held(record)]:
            for record in held:
                budgets = (r for r in mirror.objects(record.key) if r.kind == "PodDisruptionBudget")
                try:
                    await cluster.merge(record.key.ref, _finalizers(record, False))
                    for ref in budgets:
                        await cluster.delete(ref)
                except ClusterError as error:
                    log.warning("pool_not_released", pool=str(record.key), error=str(error))
            await asyncio.sleep(RETIRE_PAUSE_S)

    async def _namespace_ends(self, key: PoolKey) -> bool:
        """Asked only where a deleted pool waits for us."""
        record = self._outside.mirror.pool(key)
        if record is None or not (_deleted(record) and _held(record)):
            return False
        return await self._outside.cluster.namespace_ends(key.namespace)

    def _plan(self, record: PoolRecord, view: SchedulerView | None, ends: bool) -> list[Action]:
        now, mirror = self._outside.clock(), self._outside.mirror
        before = pool_status_of(record.body)
        pods = tuple(sorted(mirror.pods(record.key), key=lambda p: p.name))
        if record.pool is None:
            return [*let_pass(pods, mirror.nodes()), *_refused(record, before, now)]
        memory = self._memory.setdefault(record.key, _Memory({}))
        desired = replace(self._desired(record, record.pool), namespace_ends=ends)
        observed = Observed(
            objects=mirror.objects(record.key),
            pods=pods,
            scheduler=view if desired.conflict is None else view and SchedulerView(),
            status=before,
            finalizers=tuple(record.body["metadata"].get("finalizers") or ()),
            status_set_at=memory.status_set_at,
            nodes=mirror.nodes(),
        )
        memory.enough_since = scaling.enough_since(desired, observed, memory.enough_since, now)
        observed = replace(observed, enough_since=memory.enough_since)
        actions = plan(desired, observed, self._environment, now)
        if any(isinstance(action, SetStatus) for action in actions):
            memory.status_set_at = now
        return actions

    def _desired(self, record: PoolRecord, pool: ModelPool) -> Desired:
        metadata = record.body["metadata"]
        others = [
            r.pool for r in self._outside.mirror.pools()
            if r.pool is not None and (not _deleted(r) or r.key.name == pool.name)
        ]  # fmt: skip
        return Desired(
            pool=pool,
            uid=metadata["uid"],
            generation=metadata.get("generation", 1),
            deleted_at=moment(metadata.get("deletionTimestamp")),
            conflict=conflict_of(pool, others),
            policy=in_force(r.policy for r in self._outside.mirror.policies() if r.policy),
            reclaims=self._giving.of(record.key, pool, others),
        )

    async def _carry_out(self, record: PoolRecord, action: Action) -> None:
        cluster = self._outside.cluster
        match action:
            case Apply(manifest):
                await cluster.apply(manifest)
            case Delete(ref):
                await cluster.delete(ref)
            case Drain() | Undrain():
                await self._tell_scheduler(action)
            case MarkVictim(pod, since, reason):
                marks = {ANNOTATION_DRAIN_SINCE: time_text(since), ANNOTATION_DRAIN_REASON: reason}
                await cluster.merge(pod, _annotations(marks))
                self._telemetry.drains.labels(reason).inc()
            case MarkLeaving(pod, since):
                await cluster.merge(pod, _annotations({ANNOTATION_LEAVE_SINCE: time_text(since)}))
            case MarkDrained(pod):
                cost = {ANNOTATION_DELETION_COST: DRAINED_DELETION_COST}
                await cluster.merge(pod, _annotations(cost))
            case Unmark(pod):
                await cluster.merge(pod, _annotations(dict.fromkeys(_MARKS)))
            case SetBusy(pod, busy):
                label = {LABEL_BUSY: "true" if busy else None}
                await cluster.merge(pod, {"metadata": {"labels": label}})
            case SetRole(pod, role):
                await cluster.merge(pod, {"metadata": {"labels": {LABEL_ROLE: role or None}}})
            case SetInService(pod, in_service):
                await cluster.set_pod_condition(pod, READINESS_GATE, in_service)
            case Event():
                await self._emit(record, action)
            case SetFinalizer(present):
                await cluster.merge(record.key.ref, _finalizers(record, present))
            case SetStatus(status):
                await cluster.merge(record.key.ref, {"status": status_patch(status)}, "status")
            case _:
                assert_never(action)

    async def _tell_scheduler(self, action: Drain | Undrain) -> None:
        """A call that fails is made again in a later pass, or the drain's time runs out."""
        scheduler = self._outside.scheduler
        try:
            if isinstance(action, Drain):
                await scheduler.drain(action.instance, action.deadline_s)
            else:
                await scheduler.undrain(action.instance)
        except SchedulerUnavailable as error:
            log.warning("scheduler_call_failed", instance=action.instance, error=str(error))
            self._telemetry.scheduler_errors.inc()

    async def _emit(self, record: PoolRecord, event: Event) -> None:
        """To be told is good, to go on is better."""
        log.info("event", pool=str(record.key), reason=event.reason, message=event.message)
        try:
            await self._outside.cluster.emit(record.body, event)
        except ClusterError as error:
            log.warning("event_not_written", pool=str(record.key), error=str(error))


def _refused(record: PoolRecord, before: PoolStatus, now: datetime) -> list[Action]:
    """A resource that does not read is left as it runs. Deleted, it is let go."""
    metadata = record.body["metadata"]
    if _deleted(record) and _held(record):
        return [SetFinalizer(False)]
    status = refused_status(before, metadata.get("generation", 1), _told(record.problems), now)
    return [] if status == before else [SetStatus(status)]


def _deleted(record: PoolRecord) -> bool:
    return "deletionTimestamp" in record.body["metadata"]


def _held(record: PoolRecord) -> bool:
    """Whether its deletion waits for us."""
    return FINALIZER in (record.body["metadata"].get("finalizers") or ())


def _told(problems: tuple[Problem, ...]) -> str:
    return "; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems)


def _annotations(changes: Mapping[str, str | None]) -> Manifest:
    return {"metadata": {"annotations": dict(changes)}}


def _finalizers(record: PoolRecord, present: bool) -> Manifest:
    """Refused by the server where somebody else has changed the list meanwhile."""
    metadata = record.body["metadata"]
    others = [f for f in metadata.get("finalizers") or () if f != FINALIZER]
    finalizers = [*others, FINALIZER] if present else others
    version = metadata.get("resourceVersion")
    return {"metadata": {"finalizers": finalizers, "resourceVersion": version}}
