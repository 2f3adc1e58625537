"""A core under load, and the traffic that it gets: what `core_pick.py` times."""

import numpy as np

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core import CoreSettings, SchedulerCore
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.decisions import Assign, Decision
from shunter_scheduler.domain.events import (
    Finished,
    FirstToken,
    InstanceObserved,
    Submitted,
    TopologyChanged,
)
from shunter_scheduler.domain.request import Request

PROFILES = ("h100", "a100", "l4")
BLOCK_TOKENS = 64
POOL = "bench"
LONG = 32_000  # tokens of a prompt beyond which instances get the KV memory for it


class Traffic:
    """Requests with prompts of one length: a shared prefix, a conversation's past, a new end.

    Of 125 blocks 20 are a system prompt, 10 to 50 the first turns of one of 2,000 conversations.
    """

    TURNS = 5

    def __init__(self, prompt_tokens: int, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self._blocks = prompt_tokens // BLOCK_TOKENS
        self._prompt_tokens = prompt_tokens
        self._rng = rng
        self._system = rng.bytes(8 * (self._blocks * 4 // 25))
        self._pasts = [rng.bytes(8 * (self._blocks * 2 // 5)) for _ in range(2000)]
        self._count = 0

    def request(self, now: float) -> Request:
        self._count += 1
        past = self._pasts[int(self._rng.integers(len(self._pasts)))]
        turn_blocks = len(past) // 8 // self.TURNS
        past = past[: 8 * turn_blocks * int(self._rng.integers(1, self.TURNS + 1))]
        head = self._system + past
        return Request(
            request_id=f"request-{self._count}",
            gateway_id="gateway",
            epoch=1,
            model=POOL,
            tenant="",
            prompt_tokens=self._prompt_tokens,
            max_output_tokens=256,
            arrived_at=now,
            block_hashes=head + self._rng.bytes(8 * self._blocks - len(head)),
        )


class Bench:
    """A core with some load on each instance; requests finish in the order of their start."""

    def __init__(
        self,
        instances: int,
        prompt_tokens: int,
        in_flight: int,
        policy: str = "predicted-cost",
        settings: CoreSettings | None = None,
    ) -> None:
        self.now = 1000.0
        self.traffic = Traffic(prompt_tokens)
        self.in_flight = in_flight
        self.core = SchedulerCore(settings or CoreSettings(), np.random.default_rng(1))
        pool = make_pool(POOL, profiles=PROFILES, contextLength=max(32768, 2 * prompt_tokens))
        rules = make_policy(
            classes=[{"name": "standard", "priority": 50, "ttft": "2s", "tpot": "100ms"}],
            dispatch={"policy": policy},
        )
        values = tuple(
            Instance(f"{POOL}-{i}", POOL, PROFILES[i % 3], f"10.0.0.{i}:8000", "simulated")
            for i in range(instances)
        )
        self.core.apply(TopologyChanged(Topology(1, (pool,), (rules,), values)), self.now)
        for value in values:
            room = 16 * prompt_tokens if prompt_tokens > LONG else 0  # 0: by the cost model
            seen = InstanceObserved(value.name, healthy=True, kv_capacity_tokens=room)
            self.core.apply(seen, self.now)
        self.running: list[str] = []
        while len(self.running) < in_flight:
            self.start(self.traffic.request(self.now))

    def start(self, request: Request) -> None:
        self.core.apply(Submitted(request), self.now)
        decisions = self.core.decide(self.now)
        self.started(decisions[-1])

    def started(self, decision: Decision) -> None:
        """The first token comes exactly as predicted, so that no rate is corrected meanwhile."""
        assert isinstance(decision, Assign), decision
        self.running.append(decision.request_id)
        ttft_s = decision.predicted_ttft_s
        self.core.apply(FirstToken(decision.request_id, 1, ttft_s), self.now)

    def finish_oldest(self) -> None:
        self.core.apply(Finished(self.running.pop(0), 1, 128, "stop"), self.now)
