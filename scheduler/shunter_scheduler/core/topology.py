"""A new configuration: pools and instances come and go, what runs stays accounted for."""

from collections.abc import Iterable, Mapping

from shunter_api.modelpool import ModelPool
from shunter_api.rules import RouteTable
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.lifecycle import occupy
from shunter_scheduler.core.metering import begin
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.ranks import renumber
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.suspension import any_suspendable
from shunter_scheduler.core.tenants import configured
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved, TopologyChanged


def topology_changed(state: CoreState, event: TopologyChanged, now: float) -> None:
    topology = event.topology
    if topology.version < state.topology.version:
        return
    state.topology = topology
    state.table = RouteTable(topology.policies, topology.pools)
    renumber(state, topology.policies)
    state.plain_routes = {}
    _set_tenants(state, now)
    state.may_suspend = any_suspendable(topology.policies)
    wanted = {instance.name: instance for instance in topology.instances}
    _remove_instances(state, wanted, topology.pools, now)
    _set_pools(state, topology.pools, now)
    _set_phases(state, dict(topology.starting), now)
    for name, value in wanted.items():
        if name not in state.instances:
            _add_instance(state, value, now)
    _reattach(state)
    for entry in state.entries.values():
        if entry.pool.roles is not None:  # which may be new
            state.planner.to_hand_over[entry.request_id] = None


def _set_tenants(state: CoreState, now: float) -> None:
    """What runs already counts against limits that are new."""
    known, others = state.tenants, state.other_tenants
    state.tenants = tenants = configured(state.table.tenants, known, others, now)
    for limits in tenants.values():
        limits.running = 0
    for entry in state.entries.values():
        entry.limits, entry.runs = tenants.get(entry.request.tenant), False
        if entry.state != "waiting":
            begin(entry)
    for pool in state.pools.values():
        pool.queue.limit(tenants)
        state.wake(pool)


def _remove_instances(
    state: CoreState, wanted: dict[str, Instance], pools: Iterable[ModelPool], now: float
) -> None:
    """One whose address or profile changed, or whose profile serves otherwise, is a new one."""
    specs = {pool.name: pool for pool in pools}
    for record in list(state.instances.values()):
        pool = state.pools[record.value.pool]
        spec = specs.get(pool.name)
        if wanted.get(record.name) == record.value and spec and _serves_alike(spec, pool.spec):
            continue
        remove_instance(state, record, now)


def _serves_alike(new: ModelPool, old: ModelPool) -> bool:
    """Same model on same hardware: what the rates follow from. Replica counts do not matter."""
    return new.spec.model == old.spec.model and _hardware(new) == _hardware(old)


def _engine_alike(new: ModelPool, old: ModelPool) -> bool:
    """The same engine in the same configuration: what observed times are of."""
    a, b = new.spec.engine, old.spec.engine
    return (a.type, a.image, a.args, a.env) == (b.type, b.image, b.args, b.env)


def _hardware(pool: ModelPool) -> list[tuple[object, ...]]:
    return [(p.name, p.accelerator, p.tensor_parallel, p.cost_per_hour) for p in pool.profiles]


def remove_instance(state: CoreState, record: InstanceRecord, now: float) -> None:
    """Requests on it stay known: their gateway reports how they end."""
    for request_id in list(record.requests):
        entry = state.entries[request_id]
        if entry.move is not None and entry.move.destination is record:
            state.abandon_move(entry, now)
            entry.state = entry.trail.state = "running"
        if entry.instance is record and entry.reservation is not None:
            state.give_back(entry, entry.reservation, record, now)
            entry.instance = entry.reservation = None
    state.draining.pop(record.name, None)
    state.planner.forget(record.name)
    del state.instances[record.name]
    state.pools[record.value.pool].remove(record)


def _set_pools(state: CoreState, pools: Iterable[ModelPool], now: float) -> None:
    specs = {pool.name: pool for pool in pools}
    for name in [name for name in state.pools if name not in specs]:
        _remove_pool(state, state.pools[name], now)
    for name, spec in specs.items():
        known = state.pools.get(name)
        if known is None:
            made = state.pools[name] = PoolRecord(spec, state.settings)
            made.top_rank = len(state.ranks) - 1
            continue
        if not _serves_alike(spec, known.spec) or not _engine_alike(spec, known.spec):
            known.models.clear()  # instances that stay keep what was learnt about them
        known.configure(spec)


def _set_phases(state: CoreState, phases: Mapping[str, str], now: float) -> None:
    """A pool whose pods are there already when it becomes known counts as used just now."""
    for pool in state.pools.values():
        pool.starting.phase = phases.get(pool.name, "")
        if pool.starting.phase and pool.active_at is None:
            pool.active_at = now


def _remove_pool(state: CoreState, pool: PoolRecord, now: float) -> None:
    del state.pools[pool.name]
    state.busy.pop(pool.name, None)
    for entry in list(state.entries.values()):
        if entry.pool is not pool or entry.state != "waiting":
            continue
        request, trail = entry.request, entry.trail
        state.end(entry, now)
        message = f"pool {pool.name} was removed"
        state.reject(request, trail, now, "unknown_model", message)
    state.busy.pop(pool.name, None)


def _add_instance(state: CoreState, value: Instance, now: float) -> None:
    pool = state.pools.get(value.pool)
    if pool is None or all(profile.name != value.profile for profile in pool.spec.profiles):
        return
    if not pool.instances:
        pool.active_at = now
    state.instances[value.name] = pool.add(value, state.profile_costs)


def _reattach(state: CoreState) -> None:
    """Requests that were reported on an instance before the instance was configured."""
    for entry in state.entries.values():
        if entry.state != "waiting" and entry.instance is None:
            record = state.instances.get(entry.instance_name)
            if record is not None and record.value.pool == entry.pool.name:
                entry.pool = state.pools[record.value.pool]
                occupy(state, entry, record)


def instance_observed(state: CoreState, event: InstanceObserved, now: float) -> None:
    record = state.instances.get(event.instance)
    if record is None:
        return
    pool = state.pools[record.value.pool]
    first = not record.served
    pool.observe(record, event)
    if event.running or event.waiting:  # also what does not come through here, as embeddings
        pool.active_at = now
    if pool.starting.asked_at is not None and pool.any_in_service():
        pool.starting.served(now, first)
    state.wake(pool)
