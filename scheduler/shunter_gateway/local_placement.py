"""Placement by the gateway itself while no scheduler is there."""

from collections.abc import Iterable, Mapping

from shunter_gateway import lifecycle_events as events
from shunter_gateway.fallback import (
    UNLIMITED_OUTPUT_TOKENS,
    Load,
    choose_instance,
    choose_pool,
)
from shunter_gateway.lifecycle import RequestLifecycle
from shunter_gateway.lifecycle_ports import Services
from shunter_gateway.topology import Pool, Topology

_FAILED_INSTANCE_S = 5.0  # an instance that failed this lately is avoided


class LocalPlacement:
    """Places on the instance with the least predicted work; holds where a pool is at zero and may
    start: at most the pool's `max_held`, each for its `hold_timeout_s`."""

    def __init__(self, services: Services, requests: Mapping[str, RequestLifecycle]) -> None:
        """`requests`: all that are in flight, by id."""
        self._services = services
        self._requests = requests
        self._failed_at: dict[str, float] = {}
        self._held: dict[str, set[str]] = {}  # pool -> ids

    def note_failure(self, instance: str, now: float) -> None:
        self._failed_at[instance] = now

    def forget(self, request_id: str) -> None:
        """It has ended, or a scheduler has it."""
        for ids in self._held.values():
            ids.discard(request_id)

    def place(self, waiting: Iterable[RequestLifecycle], topology: Topology) -> None:
        """All of `waiting`, the oldest first."""
        loads: dict[str, Load] | None = None
        for life in waiting:
            pool = choose_pool(topology, life.spec.model, life.pinned_pool)
            if pool is None or pool.engine_type not in self._services.adapters:
                self._refuse(life)
            elif topology.instances_by_pool.get(pool.name):
                if loads is None:
                    loads = self._loads()
                self._place(life, pool, topology, loads)
            elif pool.max_held:
                self._hold(life, pool)
            else:
                self._refuse(life)

    def _place(
        self, life: RequestLifecycle, pool: Pool, topology: Topology, loads: dict[str, Load]
    ) -> None:
        spec = life.spec
        instance = choose_instance(
            topology.instances_by_pool[pool.name],
            loads,
            {*life.recovery.left_instances, *self._lately_failed()},
            spec.prompt_tokens,
            spec.max_tokens or UNLIMITED_OUTPUT_TOKENS,
        )
        assert instance is not None
        self.forget(spec.request_id)
        self._services.observer.placed_without_scheduler()
        life.place_alone(instance, pool)
        _add(loads, life)

    def _hold(self, life: RequestLifecycle, pool: Pool) -> None:
        held = self._held.setdefault(pool.name, set())
        now, retry_after_s = self._services.clock.time(), self._services.limits.retry_after_s
        if life.spec.request_id not in held and len(held) >= pool.max_held:
            life.refuse(events.hold_full(pool, retry_after_s))
        elif now - life.submission.since >= pool.hold_timeout_s:
            life.refuse(events.hold_timeout(pool, retry_after_s))
        else:
            held.add(life.spec.request_id)
            life.submission.hold_alone()

    def _refuse(self, life: RequestLifecycle) -> None:
        message = "no scheduler, and no instance of this model is known"
        retry_after_s = self._services.limits.retry_after_s
        life.refuse(events.unavailable(message, "no_instance", retry_after_s))

    def _loads(self) -> dict[str, Load]:
        loads: dict[str, Load] = {}
        for life in self._requests.values():
            _add(loads, life)
        return loads

    def _lately_failed(self) -> list[str]:
        now = self._services.clock.time()
        stale = [n for n, at in self._failed_at.items() if now - at > _FAILED_INSTANCE_S]
        for name in stale:
            del self._failed_at[name]
        return list(self._failed_at)


def _add(loads: dict[str, Load], life: RequestLifecycle) -> None:
    if life.state not in ("assigned", "streaming"):
        return
    load = loads.setdefault(life.instance, Load())
    if life.state == "assigned":
        load.prompt_tokens += life.spec.prompt_tokens
    limit = life.spec.max_tokens or UNLIMITED_OUTPUT_TOKENS
    load.output_tokens += max(limit - life.answer.output_tokens, 1)
