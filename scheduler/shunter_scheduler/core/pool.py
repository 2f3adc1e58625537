"""One model pool: its instances in slots, its prefix index, its queue, and what it has seen."""

import math
from collections.abc import Iterator
from dataclasses import replace

from shunter_api.modelpool import ModelPool
from shunter_scheduler.core.costs import ProfileCosts
from shunter_scheduler.core.engine_arguments import computes_higher_first
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.headroom import PriorityHeadroom
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.kv_events import KvFollower
from shunter_scheduler.core.lengths import LengthErrors
from shunter_scheduler.core.planner.lineup import Lineup
from shunter_scheduler.core.planner.state import Advised
from shunter_scheduler.core.prefix import PrefixIndex
from shunter_scheduler.core.prefix_hits import PrefixHits
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.core.queue import AdmissionQueue, Ageing
from shunter_scheduler.core.roles import PoolRoles, roles_of
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.starting import Starting
from shunter_scheduler.core.stop_copy import ENGINE_TYPES, StopCopies
from shunter_scheduler.core.tuning import AlphaTuner
from shunter_scheduler.core.windows import RetryBudget, ServiceLevel
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.view import EngineView


class PoolRecord:
    """Rows of `columns` are brought up to date by `refresh`, for the slots marked since."""

    def __init__(self, spec: ModelPool, settings: CoreSettings) -> None:
        self.name = spec.name
        self._given = self.settings = settings
        self.kv: KvFollower | None = None  # there once an engine publishes KV events
        self.spec = spec
        self.instances: dict[str, InstanceRecord] = {}
        self.roles: PoolRoles | None = None  # there where prefill and decode are apart
        self.configure(spec)
        self.columns = InstanceColumns(settings.weights)
        self.prefix = PrefixIndex(settings.max_prefix_blocks)
        self.hits = PrefixHits()
        self.queue: AdmissionQueue[Entry] = AdmissionQueue(
            Ageing(settings.ageing_step_s, settings.ageing_share), settings.fair_window_tokens
        )
        self.headroom = PriorityHeadroom()
        self.newcomers: list[Entry] = []
        self.retries = RetryBudget(settings.retries)
        self.level = ServiceLevel()
        self.length_errors = LengthErrors()
        self.starting = Starting()
        self.stop_copies: StopCopies | None = None  # there where KV copies stop their requests
        self.tuner: AlphaTuner | None = None  # there once a policy is used that it tunes
        self.room_sought_at = -math.inf  # for a higher class
        self.room_due = False  # it is sought again soon
        self.lineup: Lineup | None = None  # of the planner's last look
        self.advised: Advised | None = None  # what the autoscaler was told last
        self.active_at: float | None = None  # when it last had a request, or got an instance
        self.models: dict[str, ProfileModel] = {}
        self.top_rank = 0  # of the classes that there are
        self.turn = 0
        self.holds_back = False  # room there is, but none that the last request looked at is worth
        self.max_queued = 0
        self.largest_kv_tokens = 0
        self.largest_kv_ask = 0.0  # the most that an idle instance can still be asked for
        self.holds_refresh_at: float | None = None
        self._slots: list[InstanceRecord | None] = []
        self._marked: set[int] = set()

    def look_closer(self) -> None:
        """From now on the columns have the view that some policies go by."""
        if self.columns.view is None:
            self.columns.view = EngineView(self.columns.capacity)
            self._marked.update(record.slot for record in self.instances.values())

    def configure(self, spec: ModelPool) -> None:
        if self.kv is not None and spec.revision != self.spec.revision:
            self.kv = None
        self.spec = spec
        self.roles = roles_of(spec, self.instances, self.roles)
        for record in self.instances.values():
            self._set_role(record)
        self.from_zero = spec.spec.scaling.from_zero  # how requests are held; None: they are not
        # Of the classes whose requests came; with the classes it may have changed.
        self.tightest_ttft_s = math.inf
        self.settings = self._given
        self.orders = computes_higher_first(spec.spec.engine)  # prompts that wait in an engine

    def expects(self, ttft_s: float) -> None:
        """A request of a class with such a target came, the tightest since the configuration."""
        self.tightest_ttft_s = ttft_s
        room = self.settings.head_room
        max_queue_s = min(room.max_queue_s, room.queue_share * ttft_s)
        self.settings = replace(self.settings, head_room=replace(room, max_queue_s=max_queue_s))

    def at_slot(self, slot: int) -> InstanceRecord:
        record = self._slots[slot]
        assert record is not None, f"slot {slot} of pool {self.name} is empty"
        return record

    def records(self) -> Iterator[InstanceRecord]:
        return iter(self.instances.values())

    def any_in_service(self) -> bool:
        return any(record.in_service for record in self.instances.values())

    def typical_model(self) -> ProfileModel | None:
        """Of the profile that is used first."""
        return next(iter(self.models.values()), None)

    def add(self, value: Instance, profile_costs: ProfileCosts) -> InstanceRecord:
        slot = self._free_slot()
        model = self.models.get(value.profile)
        if model is None:
            cost = profile_costs(self.spec, self.spec.profile(value.profile))
            model = ProfileModel(cost, self.settings.money_s_per_dollar)
            self.models[value.profile] = model
        if self.stop_copies is None and value.engine_type in ENGINE_TYPES:
            self.stop_copies = StopCopies(model.cost.kv_bytes_per_token)
        record = InstanceRecord(value, slot, model)
        self._slots[slot] = record
        self.instances[value.name] = record
        if self.roles is not None:
            self.roles.changed()
            self._set_role(record)
        self._sized(record)
        self.mark(record)
        return record

    def remove(self, record: InstanceRecord) -> None:
        """Its reservations are released before."""
        del self.instances[record.name]
        if self.roles is not None:
            self.roles.changed()
        self._slots[record.slot] = None
        self._marked.discard(record.slot)
        self.columns.clear(record.slot)
        self.headroom.clear(record.slot)
        self._forget_cache(record)
        self._largest()

    def observe(self, record: InstanceRecord, seen: InstanceObserved) -> None:
        before, was_healthy = record.kv_capacity_tokens, record.healthy
        record.observe(seen)
        if was_healthy and not record.healthy:
            self._forget_cache(record)  # an engine that comes back begins with an empty cache
        if record.kv_capacity_tokens != before or record.healthy != was_healthy:
            self._sized(record)
        self.mark(record)

    def holds(self, record: InstanceRecord, hashes: bytes) -> None:
        """An instance has a prompt's KV blocks though it was not dispatched there."""
        self.prefix.insert(record.slot, hashes, self.prefix.match(hashes))

    def _forget_cache(self, record: InstanceRecord) -> None:
        self.prefix.clear(record.slot)
        if self.kv is not None:
            self.kv.forget(record.slot)

    def mark(self, record: InstanceRecord) -> None:
        self._marked.add(record.slot)

    def corrected(self, model: ProfileModel) -> None:
        """A correction was published: all instances of the profile follow."""
        model.update()
        self._marked.update(r.slot for r in self.instances.values() if r.model is model)

    def refresh(self, now: float) -> None:
        if not self._marked:
            return
        view = self.columns.view
        for slot in self._marked:
            record = self._slots[slot]
            if record is not None:
                if record.prefills.at != now:
                    record.prefills.forget(now)
                row = record.row(now, self.settings, self.top_rank)
                self.columns.put(row)
                if view is not None:
                    view.put(slot, record.look(self.settings))
                late = row.tpot_s > record.least_target_s and not record.hands_over
                if late or self.headroom.by_rank:
                    self._keep_headroom(record, row.tpot_s)
        self._marked.clear()

    def _set_role(self, record: InstanceRecord) -> None:
        hands_over = self.roles is not None and self.roles.role(record) == "Prefill"
        if record.hands_over != hands_over:
            record.hands_over = hands_over
            self.headroom.clear(record.slot)
            self.mark(record)

    def _keep_headroom(self, record: InstanceRecord, tpot_s: float) -> None:
        if self.settings.head_room.for_priorities:
            self.headroom.update(record, tpot_s)

    def _sized(self, record: InstanceRecord) -> None:
        self.prefix.open(record.slot, record.kv_capacity_tokens // self.settings.block_tokens)
        self._largest()

    def _largest(self) -> None:
        capacities = [record.kv_capacity_tokens for record in self.instances.values()]
        self.largest_kv_tokens = max(capacities, default=0)
        self.largest_kv_ask = self.largest_kv_tokens * (1 - self.settings.head_room.kv_watermark)

    def _free_slot(self) -> int:
        for slot, record in enumerate(self._slots):
            if record is None:
                return slot
        self._slots.append(None)
        if len(self._slots) > self.columns.capacity:
            self.columns.grow()
        return len(self._slots) - 1
