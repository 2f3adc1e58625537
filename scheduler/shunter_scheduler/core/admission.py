"""From Submitted to a place in a pool's queue, or to a clear refusal."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from shunter_api.routingpolicy import RoutingPolicySpec, SloClass
from shunter_api.rules import DEFAULT_CLASS, Resolution
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.metering import meter
from shunter_scheduler.core.outlook import look_ahead
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.slack import find_slack
from shunter_scheduler.core.state import CoreState, spec_of
from shunter_scheduler.core.tenants import TenantLimits
from shunter_scheduler.core.trail import Trail
from shunter_scheduler.domain.decisions import RejectReason
from shunter_scheduler.domain.request import Request
from shunter_scheduler.policies import DISPATCH_POLICIES
from shunter_scheduler.policies.policy import DispatchPolicy
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST

NO_INSTANCE_RETRY_S = 5.0
SUSPENDED_PATIENCE_S = 86_400.0  # it was served before, and has not asked to wait
STANDARD = SloClass(name=DEFAULT_CLASS, priority=50)


class Route(Struct, frozen=True, eq=False):
    """Where a request may go and as what."""

    pool: PoolRecord
    fallback: tuple[str, ...]  # names of further pools, in order
    slo_class: SloClass
    rank: int  # of the class's priority
    rule: str
    policy: DispatchPolicy
    queue_timeout_s: float
    max_queued: int
    preferred: PoolRecord  # by the rule, whether it serves or not


def make_route(
    state: CoreState,
    preferred: Sequence[PoolRecord],
    slo_class: SloClass,
    rule: str,
    spec: RoutingPolicySpec,
) -> Route:
    """`preferred` in the rule's order."""
    pools = sorted(preferred, key=_serves_least) if len(preferred) > 1 else preferred
    return Route(
        pools[0],
        tuple(pool.name for pool in pools[1:]),
        slo_class,
        state.ranks.get(slo_class.priority, 0),
        rule,
        DISPATCH_POLICIES.get(spec.dispatch.policy, PREDICTED_COST),
        spec.admission.queue_timeout_s,
        spec.admission.max_queued,
        preferred[0],
    )


class Refused(Exception):
    """A request that gets no place; `reason` and the message go to the client."""

    def __init__(self, reason: RejectReason, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason: RejectReason = reason
        self.retry_after_s = retry_after_s


def admit(state: CoreState, request: Request, now: float) -> None:
    """Queues a request, or puts a Reject into the outbox."""
    trail = state.ended.take_back(request.request_id)
    try:
        route = find_route(state, request)
        pool = route.pool
        _check(request, pool)
        if request.output_tokens and trail is not None:
            _check_revision(request, pool, trail)
        _check_retry(state, request, pool, trail, now)
        entry = make_entry(state, request, route, trail, now)
        if entry.limits is not None:
            _check_rate(entry, entry.limits, now)
    except Refused as refused:
        trail = trail or make_trail(request, None)
        state.reject(request, trail, now, refused.reason, str(refused), refused.retry_after_s)
        return
    route.preferred.active_at = now
    if pool.from_zero is not None and not pool.any_in_service():
        entry.timeout_at = entry.queued_at + pool.from_zero.hold_timeout_s
    state.add_entry(entry)
    enqueue(state, entry)


def enqueue(state: CoreState, entry: Entry) -> None:
    """Into the queue of its pool, with the next decision."""
    pool = entry.pool
    pool.newcomers.append(entry)
    state.busy[pool.name] = None


def find_route(state: CoreState, request: Request, owner: PoolRecord | None = None) -> Route:
    """`owner` is the pool of a request that runs already. Raises `Refused`."""
    if owner or request.pool or request.slo_class or state.table.has_rules:
        return _resolve(state, request, owner)
    known = state.plain_routes.get(request.model)
    if known is None:
        known = state.plain_routes[request.model] = _resolve(state, request, None)
    return known


def _resolve(state: CoreState, request: Request, owner: PoolRecord | None) -> Route:
    found = state.table.resolve(
        model=request.model,
        headers=request.headers,
        tenant=request.tenant,
        prompt_tokens=request.prompt_tokens,
        draw=state.rng.random(),
    )
    preferred = [owner] if owner else _pools_for(state, request, found)
    slo_class = _asked_class(state, request, found) if request.slo_class else None
    return make_route(
        state,
        preferred,
        slo_class or (found.slo_class if found else STANDARD),
        found.rule if found else "",
        spec_of(found.policy if found else None),
    )


def _serves_least(pool: PoolRecord) -> tuple[bool, bool]:
    """Sorts pools that serve before those that may, and these before the others."""
    return not pool.any_in_service(), not pool.instances and pool.from_zero is None


def _pools_for(state: CoreState, request: Request, found: Resolution | None) -> list[PoolRecord]:
    """In the rule's order."""
    names: Iterable[str] = (request.pool,) if request.pool else found.pools if found else ()
    pools = [state.pools[name] for name in names if name in state.pools]
    if pools:
        return pools
    if request.pool:
        raise Refused("no_instance", f"pool {request.pool} is gone: no other has its model")
    raise Refused("unknown_model", f"no pool and no rule serves model {request.model!r}")


def _asked_class(state: CoreState, request: Request, found: Resolution | None) -> SloClass:
    name = request.slo_class
    if request.allowed_classes and name not in request.allowed_classes:
        allowed = ", ".join(request.allowed_classes)
        raise Refused("class_not_allowed", f"class {name!r} is not allowed; allowed: {allowed}")
    if found is not None and found.slo_class.name == name:
        return found.slo_class
    asked = state.table.slo_class(name, found.policy if found else None)
    if asked is None:
        raise Refused("class_not_allowed", f"no routing policy defines class {name!r}")
    return asked


def _check(request: Request, pool: PoolRecord) -> None:
    tokens = request.prompt_tokens + request.output_tokens
    limit = pool.spec.context_length
    if request.prompt_tokens_exact and request.prompt_tokens >= limit:
        raise Refused(
            "context_length",
            f"the prompt has {request.prompt_tokens} tokens, but pool {pool.name} has a context of "
            f"{limit} tokens",
        )
    if not pool.instances and pool.from_zero is not None:
        return
    if not pool.instances:
        raise Refused("no_instance", f"pool {pool.name} has no instance", NO_INSTANCE_RETRY_S)
    largest = pool.largest_kv_tokens
    if request.prompt_tokens_exact and tokens >= largest:
        raise Refused(
            "context_length",
            f"{tokens} tokens do not fit into the KV memory of any instance of pool {pool.name}: "
            f"the largest holds {largest}",
        )


def _check_revision(request: Request, pool: PoolRecord, trail: Trail) -> None:
    """What has begun to answer may not go on with other weights."""
    if trail.revision is None or not pool.instances:
        return
    if all(record.value.revision != trail.revision for record in pool.records()):
        raise Refused(
            "no_instance",
            f"pool {pool.name} has no instance left of the model revision that began this answer",
            NO_INSTANCE_RETRY_S,
        )


def _check_retry(
    state: CoreState, request: Request, pool: PoolRecord, trail: Trail | None, now: float
) -> None:
    """The first fail-over off an engine that was taken out is not charged: it happens once per
    request, and is no storm. Retries against engines that are still in service are."""
    pool.retries.count_request(now)
    failures = trail.failures if trail else 0
    if not failures and not request.excluded_instances:
        return
    name = trail.failed_on if trail else request.excluded_instances[-1]
    failed_on = state.instances.get(name)
    if failures < 2 and (failed_on is None or not failed_on.in_service):
        return
    if not pool.retries.take_retry(now):
        raise Refused(
            "overloaded",
            f"too many retries in pool {pool.name}",
            float(pool.retries.limits.window_s),
        )


def _check_rate(entry: Entry, limits: TenantLimits, now: float) -> None:
    if limits.bucket is None:
        return
    wait_s = meter(entry, now)
    if wait_s:
        raise Refused(
            "rate_limited",
            f"tenant {limits.name!r} has used its {limits.bucket.per_minute} tokens per minute",
            wait_s,
        )


def make_trail(request: Request, route: Route | None) -> Trail:
    trail = Trail(
        request.request_id,
        request.model,
        route.pool.name if route else request.pool,
        route.slo_class.name if route else request.slo_class,
        route.rule if route else "",
        request.prompt_tokens,
    )
    trail.tenant = request.tenant
    if route:
        trail.level = route.rank
    if request.workflow:
        trail.workflow, trail.stage = request.workflow, request.stage
    return trail


def make_entry(
    state: CoreState, request: Request, route: Route, trail: Trail | None, now: float
) -> Entry:
    pool, slo_class, output_tokens = route.pool, route.slo_class, request.output_tokens
    if trail is None:
        trail = make_trail(request, route)
    trail.state = "waiting"
    trail.output_tokens = output_tokens
    lengths = state.lengths.of(request.model, slo_class.name)
    queued_at = now if request.queued_at is None else request.queued_at
    pool.max_queued = route.max_queued
    if slo_class.ttft_s is not None and slo_class.ttft_s < pool.tightest_ttft_s:
        pool.expects(slo_class.ttft_s)
    patience_s = SUSPENDED_PATIENCE_S if request.suspended else route.queue_timeout_s
    entry = Entry(  # by position: naming twenty fields takes as long as filling them
        request,
        request.request_id,
        request.epoch,
        pool,
        route.fallback,
        route.policy,
        slo_class,
        route.rank,
        queued_at,
        queued_at + patience_s,
        0.0,
        lengths,
        trail,
        "waiting",
        output_tokens,
    )
    entry.predicted_tokens = look_ahead(entry)
    find_slack(state, entry)
    if state.tenants:
        entry.limits = state.tenants.get(request.tenant)
    return entry
