"""All that the core knows. The modules beside this one read and change it; nobody else does."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from numpy.random import Generator

from shunter_api.routingpolicy import RoutingPolicy, RoutingPolicySpec
from shunter_api.rules import RouteTable
from shunter_scheduler.core.costs import ProfileCosts, profile_cost
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.lengths import OutputLengths
from shunter_scheduler.core.metering import count_use, settle
from shunter_scheduler.core.planner.state import PlannerState
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.tenants import TenantLimits, TenantUse
from shunter_scheduler.core.timers import Timers
from shunter_scheduler.core.trail import EndedTrails, Kind, Ranking, Trace, Trail, Weighing
from shunter_scheduler.core.workflows import Workflows
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.decisions import Assign, Decision, Reject, RejectReason
from shunter_scheduler.domain.request import Request

if TYPE_CHECKING:
    from shunter_scheduler.core.admission import Route

NO_TOPOLOGY = Topology(version=0, pools=(), policies=(), instances=())


@dataclass(slots=True)
class CoreState:
    """`busy` are pools in which a waiting request may have become placeable."""

    settings: CoreSettings
    rng: Generator
    ended: EndedTrails
    lengths: OutputLengths
    profile_costs: ProfileCosts = profile_cost
    topology: Topology = NO_TOPOLOGY
    table: RouteTable = field(default_factory=lambda: RouteTable((), ()))
    plain_routes: dict[str, "Route"] = field(default_factory=dict)  # per model, where no rules are
    tenants: dict[str, TenantLimits] = field(default_factory=dict)  # those that policies name
    other_tenants: TenantUse = field(default_factory=TenantUse)
    workflows: Workflows = field(default_factory=Workflows)
    ranks: dict[int, int] = field(default_factory=dict)  # priority of a class -> rank
    pools: dict[str, PoolRecord] = field(default_factory=dict)
    instances: dict[str, InstanceRecord] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    of_gateway: dict[str, set[str]] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)
    outbox: list[Decision] = field(default_factory=list)
    busy: dict[str, None] = field(default_factory=dict)
    draining: dict[str, None] = field(default_factory=dict)
    moving: dict[str, None] = field(default_factory=dict)  # requests with a move under way
    may_suspend: bool = False  # some class is suspendable
    planner: PlannerState = field(default_factory=PlannerState)
    latest: str = ""
    dispatched_total: int = 0
    moved_total: int = 0
    resumed_total: int = 0  # placed again after an engine failure

    def add_entry(self, entry: Entry) -> None:
        request_id, gateway_id = entry.request_id, entry.request.gateway_id
        self.entries[request_id] = entry
        trail = entry.trail
        if not trail.expected_output_tokens:
            trail.expected_output_tokens = entry.predicted_tokens[0]
        ids = self.of_gateway.get(gateway_id)
        if ids is None:
            ids = self.of_gateway[gateway_id] = set()
        ids.add(request_id)

    def remove_entry(self, entry: Entry) -> None:
        del self.entries[entry.request_id]
        gateway_id = entry.request.gateway_id
        ids = self.of_gateway[gateway_id]
        ids.discard(entry.request_id)
        if not ids:
            del self.of_gateway[gateway_id]

    def release(self, entry: Entry, now: float) -> None:
        """Gives back whatever a request has reserved, a move's destination included."""
        reservation, record = entry.reservation, entry.instance
        if reservation is not None and record is not None:
            self.give_back(entry, reservation, record, now)
        entry.reservation = entry.instance = None
        if entry.move is not None:
            self.abandon_move(entry, now)

    def abandon_move(self, entry: Entry, now: float) -> None:
        if entry.move is not None:
            self.give_back(entry, entry.move.reservation, entry.move.destination, now)
            entry.move = None
            self.moving.pop(entry.request_id, None)

    def give_back(
        self, entry: Entry, reservation: Reservation, record: InstanceRecord, now: float
    ) -> None:
        """Does nothing where that was done before."""
        if not reservation.release():
            return
        if reservation.prefilling:
            record.queue_moves(now)
        record.requests.pop(entry.request_id, None)
        if (tpot_s := entry.slo_class.tpot_s) is not None:
            record.hosts_no_more(entry.rank, tpot_s)
        entry.pool.mark(record)
        self.wake(entry.pool)

    def wake(self, pool: PoolRecord) -> None:
        if pool.queue:
            self.busy[pool.name] = None

    def end(self, entry: Entry, now: float) -> None:
        """Forgets a request but for its trail."""
        if entry.state == "waiting":
            entry.pool.queue.remove(entry.request_id)
        else:
            self.release(entry, now)
        if entry.charged_tokens is not None or entry.limits is not None:
            self._settle(entry, now)
        if self.tenants:
            count_use(entry, self.other_tenants if entry.limits is None else entry.limits.use)
        trail = entry.trail
        if entry.output_tokens > trail.output_tokens:
            trail.output_tokens = entry.output_tokens
        entry.pool.active_at = now
        self.remove_entry(entry)
        self.ended.keep(trail)

    def _settle(self, entry: Entry, now: float) -> None:
        if settle(entry, now):
            for pool in self.pools.values():  # its tenant may wait in any
                self.wake(pool)

    def trace(
        self,
        entry: Entry,
        now: float,
        kind: Kind,
        *,
        winner: str = "",
        reason: str = "",
        ranking: Ranking | None = None,
        cached_tokens: int = 0,
        weighed: Weighing | None = None,
    ) -> None:
        trace = Trace(
            kind,
            entry.epoch,
            now,
            winner,
            reason,
            now - entry.queued_at,
            cached_tokens,
            ranking,
            weighed,
            entry.latest_start_at - now,
        )
        entry.trail.add(trace)
        self.latest = entry.request_id

    def assign(self, entry: Entry, instance: str) -> None:
        below_top = len(self.ranks) - 1 - entry.engine_rank
        self.outbox.append(
            Assign(
                entry.request_id,
                entry.request.gateway_id,
                entry.epoch,
                instance,
                entry.pool.name,
                entry.slo_class.name,
                below_top if below_top > 0 else 0,
                entry.predicted_ttft_s,
                entry.cached_tokens,
            )
        )

    def reject(
        self,
        request: Request,
        trail: Trail,
        now: float,
        reason: RejectReason,
        message: str,
        retry_after_s: float = 0.0,
    ) -> None:
        if self.tenants:
            limits = self.tenants.get(request.tenant)
            (self.other_tenants if limits is None else limits.use).rejected += 1
        trail.state = "failed"
        trail.ended_epoch = request.epoch
        queued_s = max(0.0, now - request.arrived_at)
        trail.add(
            Trace("reject", request.epoch, now, "", f"{reason}: {message}", queued_s, 0, None)
        )
        self.ended.keep(trail)
        self.latest = request.request_id
        trail.rejected = Reject(
            request.request_id,
            request.gateway_id,
            request.epoch,
            reason,
            message,
            retry_after_s,
        )
        self.outbox.append(trail.rejected)


_DEFAULTS = RoutingPolicySpec()


def spec_of(policy: RoutingPolicy | None) -> RoutingPolicySpec:
    """Admission limits and dispatch policy, with their defaults where no policy applies."""
    return policy.spec if policy else _DEFAULTS
