"""A core with a small cluster, for tests: short to drive, and able to check its own books."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import ProfileCosts, profile_cost
from shunter_scheduler.core.ledger import Load
from shunter_scheduler.core.scheduler import SchedulerCore
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.decisions import Assign, Decision
from shunter_scheduler.domain.events import (
    Event,
    FirstToken,
    InstanceObserved,
    Submitted,
    TopologyChanged,
)
from shunter_scheduler.domain.request import Request
from shunter_scheduler.policies.slot_arrays import NUMBERS

D = TypeVar("D")


def make_instances(count: int, pool: str = "chat", profile: str = "h100") -> tuple[Instance, ...]:
    return tuple(
        Instance(f"{pool}-{profile}-{i}", pool, profile, f"127.0.0.1:{9000 + i}", "simulated")
        for i in range(count)
    )


def make_request(request_id: str, **fields: Any) -> Request:
    """A request of 1,000 prompt tokens for model `chat`, unless told otherwise."""
    defaults: dict[str, Any] = {
        "gateway_id": "gateway",
        "epoch": 1,
        "model": "chat",
        "tenant": "",
        "prompt_tokens": 1000,
        "max_output_tokens": 100,
        "arrived_at": 0.0,
    }
    return Request(request_id=request_id, **{**defaults, **fields})


class CoreHarness:
    """`now` is moved by the test. Instances are healthy from the start unless told otherwise."""

    def __init__(
        self,
        instances: Sequence[Instance] | None = None,
        *,
        pools: Iterable[ModelPool] | None = None,
        policies: Iterable[RoutingPolicy] = (),
        settings: CoreSettings | None = None,
        healthy: bool = True,
        profile_costs: ProfileCosts = profile_cost,
    ) -> None:
        self.now = 0.0
        self.instances = make_instances(2) if instances is None else tuple(instances)
        self.pools = tuple(pools or (make_pool("chat"),))
        self.policies = tuple(policies)
        rng = np.random.default_rng(0)
        self.core = SchedulerCore(settings or CoreSettings(), rng, profile_costs)
        self.version = 0
        self.configure()
        for value in self.instances if healthy else ():
            self.observe(value.name)

    def configure(
        self,
        instances: Sequence[Instance] | None = None,
        pools: Sequence[ModelPool] | None = None,
    ) -> None:
        self.version += 1
        self.instances = self.instances if instances is None else tuple(instances)
        self.pools = self.pools if pools is None else tuple(pools)
        topology = Topology(self.version, self.pools, self.policies, self.instances)
        self.apply(TopologyChanged(topology))

    def apply(self, *events: Event) -> None:
        for event in events:
            self.core.apply(event, self.now)

    def observe(self, instance: str, healthy: bool = True, **fields: Any) -> None:
        self.apply(InstanceObserved(instance, healthy, **fields))

    def decide(self) -> list[Decision]:
        return self.core.decide(self.now)

    def after(self, *events: Event) -> list[Decision]:
        self.apply(*events)
        return self.decide()

    def submit(self, request_id: str, **fields: Any) -> list[Decision]:
        return self.after(Submitted(make_request(request_id, **fields)))

    def assign(self, request_id: str, **fields: Any) -> Assign:
        """Submits a request that must be placed at once."""
        (decision,) = self.submit(request_id, **fields)
        assert isinstance(decision, Assign), decision
        return decision

    def start(self, request_id: str, **fields: Any) -> Assign:
        """Submits a request and reports its first token as predicted."""
        assigned = self.assign(request_id, **fields)
        self.apply(FirstToken(request_id, assigned.epoch, assigned.predicted_ttft_s))
        return assigned

    def loads(self) -> dict[str, Load]:
        return {r.name: r.load for r in self.core._state.instances.values()}

    def check_books(self) -> None:
        """Each instance's load is the sum of the reservations of the requests on it, and each
        request that is known waits in one place, or runs."""
        state = self.core._state
        expected = {name: Load() for name in state.instances}
        there: dict[str, set[str]] = {name: set() for name in state.instances}
        for entry in state.entries.values():
            held = [(entry.instance, entry.reservation)]
            if entry.move is not None:
                held.append((entry.move.destination, entry.move.reservation))
            for record, reservation in held:
                if record is not None and reservation is not None and reservation.open:
                    expected[record.name].add(reservation)
                    there[record.name].add(entry.request_id)
            assert entry.state != "waiting" or (entry.instance, entry.move) == (None, None)
            assert (entry.state == "moving") == (entry.move is not None)
        assert self.loads() == expected
        assert {r.name: set(r.requests) for r in state.instances.values()} == there
        for load in expected.values():
            values = (load.requests, load.kv_tokens, load.prefill_ns, load.decode_tokens)
            assert min(values) >= 0 and load.prefilling >= 0
        self._check_places()
        self._check_ranks()
        self._check_tenants()
        self._check_columns()

    def _check_ranks(self) -> None:
        """All are ranked by the priorities that are known now, in queues and on instances."""
        state = self.core._state
        for entry in state.entries.values():
            assert entry.rank == state.ranks[entry.slo_class.priority]
        for record in state.instances.values():
            hosted = (state.entries[one] for one in record.requests)
            targets = ((e.rank, e.slo_class.tpot_s) for e in hosted if e.slo_class.tpot_s)
            assert record.tpot_targets == Counter(targets)
        for pool in state.pools.values():
            places = {one.request_id: rank for rank, one in enumerate(pool.queue)}
            by_rank = sorted(pool.queue, key=lambda one: (-one.rank, places[one.request_id]))
            assert [one.request_id for one in by_rank] == list(places)

    def _check_tenants(self) -> None:
        """What runs of a tenant is counted once, and nothing waits under another's account."""
        state = self.core._state
        running = [e.request.tenant for e in state.entries.values() if e.state != "waiting"]
        for name, limits in state.tenants.items():
            assert limits.running == running.count(name)
            if (bucket := limits.bucket) is not None:
                assert bucket.level(self.now) <= bucket.per_minute
        for pool in state.pools.values():
            for entry in pool.queue:
                account = entry.account
                assert account is not None and account.name == entry.request.tenant
                assert account.limits is state.tenants.get(account.name) is entry.limits

    def _check_columns(self) -> None:
        """What policies see of an instance is what follows from its record now, unless it is
        marked as changed."""
        for pool in self.core._state.pools.values():
            columns = pool.columns
            for record in pool.records():
                if record.slot in pool._marked:
                    continue
                row = record.row(self.now, pool.settings, pool.top_rank)
                standing = columns._standings[record.slot]
                assert standing is not None, f"{record.name} is not in its slot"
                seen = standing.row(columns._data[NUMBERS, record.slot].tolist())
                free = -1.0 if row.blocked_because else row.kv_free_tokens
                assert seen == replace(row, kv_free_tokens=free, lowest_rank=-1.0, ahead=())
                assert columns.lowest_rank[record.slot] == row.lowest_rank

    def _check_places(self) -> None:
        state = self.core._state
        newcomers = [
            entry
            for pool in state.pools.values()
            for entry in pool.newcomers
            if entry.state == "waiting" and state.entries.get(entry.request_id) is entry
        ]
        waiting = [*newcomers, *(entry for pool in state.pools.values() for entry in pool.queue)]
        live = [entry for entry in state.entries.values() if entry.state == "waiting"]
        assert sorted(map(id, waiting)) == sorted(map(id, live))
        assert all(state.pools[entry.pool.name] is entry.pool for entry in live)
        of_gateway = {
            (gateway, request_id) for gateway, ids in state.of_gateway.items() for request_id in ids
        }
        assert of_gateway == {(e.request.gateway_id, e.request_id) for e in state.entries.values()}


def only(kind: type[D], decisions: Iterable[Decision]) -> list[D]:
    """The decisions of one kind."""
    return [decision for decision in decisions if isinstance(decision, kind)]
