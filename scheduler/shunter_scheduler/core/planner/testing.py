"""A small cluster whose requests all run where a test wants them, for tests of the planner."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import ProfileCost
from shunter_scheduler.core.settings import CoreSettings, HeadRoom, Moves
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.costmodel import LinearRates
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.decisions import Move
from shunter_scheduler.domain.events import MoveDone, Progress

# A slow device with little memory, so that a few requests load it: LLaMA-7B on an A10.
A10 = ProfileCost(LinearRates(0.0056, 2.03e-4, 0.035, 6.5e-4, 1.5e-6), 13_040, 0.0, 524_288)
MOVES = Moves(policy="predicted-gain", interval_s=0.5, kv_bytes_per_s=2.5e9)


def a10_costs(pool: ModelPool, profile: Profile) -> ProfileCost:
    return A10


class PlannerHarness(CoreHarness):
    """`load` puts requests on one instance: the others are away meanwhile."""

    def __init__(
        self,
        count: int = 2,
        *,
        transport: str = "sim",
        moves: Moves = MOVES,
        head_room: HeadRoom | None = None,
        pools: Iterable[ModelPool] | None = None,
        instances: Sequence[Instance] | None = None,
        policies: Iterable[RoutingPolicy] = (),
    ) -> None:
        settings = CoreSettings(
            moves=moves, head_room=head_room or HeadRoom(), default_output_tokens=400
        )
        values = [
            replace(i, kv_transport=transport)
            for i in (make_instances(count) if instances is None else instances)
        ]
        super().__init__(
            values,
            pools=pools or [make_pool("chat")],
            settings=settings,
            policies=policies,
            profile_costs=a10_costs,
        )

    @property
    def names(self) -> list[str]:
        return [instance.name for instance in self.instances]

    def load(
        self, instance: str, ids: Iterable[str], output_tokens: int = 10, **fields: Any
    ) -> None:
        """Requests that have begun to answer there, whatever they cost each other."""
        self._only(instance)
        settings = {pool: pool.settings for pool in self.core._state.pools.values()}
        for pool, usual in settings.items():
            pool.settings = replace(usual, head_room=replace(usual.head_room, for_targets=False))
        for request_id in ids:
            assigned = self.start(request_id, **{"max_output_tokens": 0, **fields})
            assert assigned.instance == instance
            self.apply(Progress(request_id, 1, output_tokens))
        self._only(None)
        for pool, usual in settings.items():
            pool.settings = usual

    def _only(self, instance: str | None) -> None:
        for name in self.names:
            self.observe(name, healthy=instance in (None, name))

    def plan(self, after_s: float = 0.5) -> list[Move]:
        """The moves of the next cycle."""
        self.now += after_s
        moves = only(Move, self.decide())
        self.check_books()
        return moves

    def carry_out(self, moves: Iterable[Move]) -> None:
        for move in moves:
            self.apply(MoveDone(move.request_id, move.epoch + 1, move.destination, True, move.rung))
