"""Any order of drains, moves, failures, lost gateways, reconfigurations and time-outs.

Gateways here behave, but late: each answers what it was told, some answers after the request has
ended, failed or moved. After each step the books are exact, each request is in one place, and every
decision is about a request that is there, at its present epoch.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.ledger import Load
from shunter_scheduler.core.settings import CoreSettings, HeadRoom, Moves
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request
from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Hold, Move, Reject
from shunter_scheduler.domain.events import (
    DrainCancelled,
    DrainRequested,
    Failed,
    Finished,
    FirstToken,
    GatewayLost,
    MoveDone,
    Progress,
    Running,
    Submitted,
)
from shunter_scheduler.domain.request import Request

POOLS = (
    make_pool("chat", contextLength=32768, spec={"migration": {"maxConcurrentPerInstance": 1}}),
    make_pool("spare", contextLength=32768),
)
INSTANCES = make_instances(3) + make_instances(2, pool="spare")
INTERACTIVE = {"name": "interactive", "priority": 100, "ttft": "300ms", "tpot": "60ms"}
STANDARD = {"name": "standard", "priority": 50, "ttft": "2s", "tpot": "80ms"}
BATCH = {"name": "batch", "priority": 0, "deadline": "1h"}
NARROW = {"name": "narrow", "maxConcurrent": 2, "tokensPerMinute": 9000}


def policy_of(*classes: dict[str, Any], tenants: list[dict[str, Any]]) -> RoutingPolicy:
    return make_policy(
        classes=list(classes),
        rules=[{"name": "all", "route": [{"pool": "chat", "weight": 1}], "fallback": ["spare"]}],
        admission={"maxQueued": 3, "queueTimeout": "8s"},
        tenants=tenants,
    )


POLICIES = (
    policy_of(INTERACTIVE, STANDARD, BATCH, tenants=[NARROW, {"name": "wide"}]),
    policy_of(INTERACTIVE, {**BATCH, "priority": 70}, tenants=[{**NARROW, "maxConcurrent": 1}]),
    policy_of({**INTERACTIVE, "priority": 20}, {"name": "new", "priority": 60}, tenants=[]),
)
SETTINGS = CoreSettings(
    lookahead=2,
    ageing_step_s=3.0,
    head_room=HeadRoom(max_requests=2),
    moves=Moves(cooldown_s=1.0, timeout_s=5.0),
)
GATEWAYS = ("g0", "g1")
CLASSES = ("", "interactive", "batch")
TENANTS = ("", "narrow", "wide")

ids = st.sampled_from([f"r-{i}" for i in range(8)])
instances = st.sampled_from([one.name for one in INSTANCES])


@dataclass
class Held:
    """What a gateway knows of one of its requests. `instance` empty: it waits."""

    epoch: int
    gateway_id: str
    slo_class: str
    instance: str = ""
    output_tokens: int = 0
    unmovable: str = ""


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, Held] = {}
        self.epochs: dict[str, int] = {}
        self.moves: list[Move] = []

    @initialize()
    def start(self) -> None:
        self.harness = CoreHarness(INSTANCES, pools=POOLS, policies=POLICIES[:1], settings=SETTINGS)

    # ------------------------------------------------------------ gateways

    @rule(request_id=ids, slo_class=st.sampled_from(CLASSES), unmovable=st.sampled_from(("", "n")))
    def submit(self, request_id: str, slo_class: str, unmovable: str) -> None:
        if request_id not in self.held:
            gateway_id = GATEWAYS[int(request_id[-1]) % 2]
            self.held[request_id] = Held(0, gateway_id, slo_class, unmovable=unmovable)
            self._submit(request_id)

    def _submit(self, request_id: str) -> None:
        held = self.held[request_id]
        held.epoch = self.epochs[request_id] = self.epochs.get(request_id, 0) + 1
        held.instance = ""
        self.harness.apply(Submitted(self._request(request_id)))

    def _request(self, request_id: str) -> Request:
        held = self.held[request_id]
        return make_request(
            request_id,
            gateway_id=held.gateway_id,
            epoch=held.epoch,
            slo_class=held.slo_class,
            tenant=TENANTS[int(request_id[-1]) % 3],
            arrived_at=self.harness.now,
            output_tokens=held.output_tokens,
            unmovable_reason=held.unmovable,
            block_hashes=bytes(range(64)),
            pool="chat" if held.output_tokens else "",
        )

    @rule(request_id=ids, tokens=st.integers(0, 300))
    def progress(self, request_id: str, tokens: int) -> None:
        held = self.held.get(request_id)
        if held is not None and held.instance:
            held.output_tokens += tokens
            self.harness.apply(
                FirstToken(request_id, held.epoch, 0.1),
                Progress(request_id, held.epoch, held.output_tokens),
            )

    @rule(
        request_id=ids,
        reason=st.sampled_from(("stop", "cancelled", "error")),
        alone=st.sampled_from((0, 50)),
    )
    def finish(self, request_id: str, reason: str, alone: int) -> None:
        """What waits here may have run: its gateway was `alone`, and placed it by itself."""
        held = self.held.pop(request_id, None)
        if held is not None:
            tokens = held.output_tokens + (0 if held.instance else alone)
            self.harness.apply(Finished(request_id, held.epoch, tokens, reason))

    @rule(request_id=ids, again=st.booleans(), reason=st.sampled_from(("connection", "overloaded")))
    def fail(self, request_id: str, again: bool, reason: str) -> None:
        held = self.held.get(request_id)
        if held is not None and held.instance:
            tokens = held.output_tokens
            self.harness.apply(Failed(request_id, held.epoch, held.instance, reason, tokens))
            if again:
                self._submit(request_id)
            else:
                del self.held[request_id]

    @rule(data=st.data(), moved=st.booleans())
    def answer_move(self, data: st.DataObject, moved: bool) -> None:
        """Late answers, too: the request may have ended, failed or been submitted again."""
        if not self.moves:
            return
        move = self.moves.pop(data.draw(st.integers(0, len(self.moves) - 1)))
        held = self.held.get(move.request_id)
        if held is None or held.epoch != move.epoch or not held.instance:
            self.harness.apply(
                MoveDone(move.request_id, move.epoch, move.source, False, move.rung, "gone")
            )
        elif moved:
            held.epoch = self.epochs[move.request_id] = held.epoch + 1
            held.instance = move.destination
            self.harness.apply(
                MoveDone(move.request_id, held.epoch, move.destination, True, move.rung)
            )
        else:
            self.harness.apply(
                MoveDone(move.request_id, held.epoch, held.instance, False, move.rung, "refused")
            )

    @rule(gateway_id=st.sampled_from(GATEWAYS))
    def lose_gateway(self, gateway_id: str) -> None:
        self.harness.apply(GatewayLost(gateway_id))
        self.held = {i: held for i, held in self.held.items() if held.gateway_id != gateway_id}

    @rule(gateway_id=st.sampled_from(GATEWAYS))
    def report_again(self, gateway_id: str) -> None:
        """As after a reconnect: what runs is reported, what waits is submitted again."""
        for request_id, held in self.held.items():
            if held.gateway_id == gateway_id:
                request = self._request(request_id)
                self.harness.apply(
                    Running(request, held.instance) if held.instance else Submitted(request)
                )

    # ------------------------------------------------------------ the cluster

    @rule(name=instances, running=st.integers(0, 3), usage=st.sampled_from((0.0, 0.5, 1.0)))
    def well(self, name: str, running: int, usage: float) -> None:
        self.harness.observe(name, running=running, kv_cache_usage=usage)

    @rule(name=instances)
    def ill(self, name: str) -> None:
        self.harness.observe(name, healthy=False)

    @rule(name=instances)
    def toggle_instance(self, name: str) -> None:
        there = {one.name for one in self.harness.instances}
        self.harness.configure(
            [one for one in INSTANCES if (one.name in there) != (one.name == name)]
        )
        self.harness.observe(name)

    @rule(name=st.sampled_from(("chat", "spare")))
    def toggle_pool(self, name: str) -> None:
        there = {pool.name for pool in self.harness.pools}
        pools = [pool for pool in POOLS if (pool.name in there) != (pool.name == name)]
        self.harness.configure(pools=pools)
        for one in self.harness.instances:
            self.harness.observe(one.name)

    @rule(policy=st.sampled_from(POLICIES))
    def change_policy(self, policy: RoutingPolicy) -> None:
        """Classes and tenants come, go and change their order."""
        self.harness.policies = (policy,)
        self.harness.configure()

    @rule(name=instances, timeout_s=st.sampled_from((0.0, 2.0, 60.0)))
    def drain(self, name: str, timeout_s: float) -> None:
        self.harness.apply(DrainRequested(name, self.harness.now + timeout_s))

    @rule(name=instances)
    def undrain(self, name: str) -> None:
        self.harness.apply(DrainCancelled(name))

    # ------------------------------------------------------------ time and decisions

    @rule()
    def decide(self) -> None:
        """What was decided before, when an event came, may be out of date by now: gateways pass
        over it. What is decided now is about requests that are there."""
        before = len(self.harness.core._state.outbox)
        for number, decision in enumerate(self.harness.decide()):
            held = self.held.get(decision.request_id)
            if number >= before or (held is not None and held.epoch == decision.epoch):
                self._obey(decision)

    @rule(seconds=st.sampled_from((0.01, 1.0, 4.0, 20.0)))
    def pass_time(self, seconds: float) -> None:
        """As the service does: the core is woken at each instant that it asked for."""
        until = self.harness.now + seconds
        for _ in range(200):
            wake = self.harness.core.next_wake(self.harness.now)
            if wake is None or wake > until:
                break
            self.harness.now = max(self.harness.now, wake)
            self.decide()
        else:
            raise AssertionError("the core asks to be woken again and again")
        self.harness.now = until
        self.decide()

    def _obey(self, decision: Decision) -> None:
        held = self.held.get(decision.request_id)
        assert held is not None, f"{decision} is about a request that is gone"
        assert (decision.gateway_id, decision.epoch) == (held.gateway_id, held.epoch)
        if isinstance(decision, Assign):
            assert held.instance in ("", decision.instance)
            held.instance = decision.instance
        elif isinstance(decision, Reject | Hold):
            assert not held.instance, f"{decision}, but it runs"
            if isinstance(decision, Reject):
                assert decision.retry_after_s <= 30.0
                del self.held[decision.request_id]
        elif isinstance(decision, Move):
            assert decision.source != decision.destination
            self.moves.append(decision)
        elif isinstance(decision, Cancel):
            del self.held[decision.request_id]
            self.harness.apply(
                Finished(decision.request_id, held.epoch, held.output_tokens, "expired")
            )

    @invariant()
    def books_are_exact(self) -> None:
        if hasattr(self, "harness"):
            self.harness.check_books()

    @invariant()
    def questions_are_answered(self) -> None:
        if hasattr(self, "harness"):
            core, now = self.harness.core, self.harness.now
            known = {i for gateway_id in GATEWAYS for i in core.requests_of(gateway_id)}
            assert known <= self.held.keys()
            assert all(core.explain(request_id, now) for request_id in known)
            assert sum(p.waiting + p.running for p in core.status(now).pools) <= len(known)
            core.advise_scaling("", now)
            for one in INSTANCES:
                core.drain_status(one.name)

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        harness = self.harness
        harness.apply(*(GatewayLost(gateway_id) for gateway_id in GATEWAYS))
        harness.decide()
        harness.check_books()
        assert not harness.core._state.entries
        assert all(load == Load() for load in harness.loads().values())
        harness.now += 1000.0
        assert harness.decide() == [], "a timer of a dead request acts"


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCluster = Cluster.TestCase
