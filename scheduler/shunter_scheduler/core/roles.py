"""Prefill and decode apart: which instances of a pool with roles may have a request.

Prompts go to instances of role Prefill or Any, what has begun to answer to Decode or Any. Where no
instance of a right role is in service any other may have it: availability goes before roles.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Role
from shunter_scheduler.core.instance import InstanceRecord

Slots = Mapping[int, str]  # and why a request may not have them

NO_PROMPTS = "decodes only (role Decode)"
NO_DECODING = "prefills only (role Prefill)"
WINDOW_S = 60.0  # over which the rate of prompt tokens is taken


class PoolRoles:
    """Of a pool with a profile that does not do everything. What follows from the instances there
    are is kept until one comes or goes."""

    __slots__ = ("_kept", "_of", "demand", "of_profile", "records")

    def __init__(
        self,
        of_profile: Mapping[str, Role],
        records: Mapping[str, InstanceRecord],
        demand: "PromptRate",
    ) -> None:
        self.of_profile = of_profile
        self.records = records
        self.demand = demand
        self._of: dict[tuple[Role, ...], tuple[InstanceRecord, ...]] = {}
        self._kept: dict[Role, tuple[Slots, tuple[InstanceRecord, ...]]] = {}

    def changed(self) -> None:
        """An instance came or went."""
        self._kept.clear()
        self._of.clear()

    def role(self, record: InstanceRecord) -> Role:
        return self.of_profile[record.value.profile]

    def of_role(self, *roles: Role) -> tuple[InstanceRecord, ...]:
        found = self._of.get(roles)
        if found is None:
            found = tuple(record for record in self.records.values() if self.role(record) in roles)
            self._of[roles] = found
        return found

    def suits(self, record: InstanceRecord, started: bool) -> bool:
        return self.role(record) != ("Prefill" if started else "Decode")

    def suit(self, records: Sequence[InstanceRecord], started: bool) -> NDArray[np.bool_]:
        """The same for many."""
        return np.array([self.suits(record, started) for record in records], dtype=np.bool_)

    def barred(self, started: bool, others: Slots) -> Slots:
        """Slots of the wrong role beside the `others` that a request may not have."""
        unfit, fit = self._split("Prefill" if started else "Decode")
        if not any(record.in_service and record.slot not in others for record in fit):
            return others
        return {**unfit, **others} if others else unfit

    def _split(self, wrong: Role) -> tuple[Slots, tuple[InstanceRecord, ...]]:
        found = self._kept.get(wrong)
        if found is None:
            why = NO_DECODING if wrong == "Prefill" else NO_PROMPTS
            records = self.records.values()
            unfit = {record.slot: why for record in records if self.role(record) == wrong}
            fit = tuple(record for record in records if record.slot not in unfit)
            found = self._kept[wrong] = unfit, fit
        return found

    def remark(self, record: InstanceRecord, started: bool) -> str:
        """To the reason for placing a request on an instance of the wrong role."""
        if self.suits(record, started):
            return ""
        right = "Decode" if started else "Prefill"
        return f"; no other instance of role {right} or Any is in service"


def roles_of(
    spec: ModelPool, records: Mapping[str, InstanceRecord], before: PoolRoles | None
) -> PoolRoles | None:
    """None where every profile does everything."""
    of_profile = {profile.name: profile.role for profile in spec.profiles}
    if all(role == "Any" for role in of_profile.values()):
        return None
    return PoolRoles(of_profile, records, before.demand if before else PromptRate())


class PromptRate:
    """Prompt tokens per second that are to be computed: a mean that forgets with `WINDOW_S`."""

    __slots__ = ("_at", "_began_at", "_tokens")

    def __init__(self) -> None:
        self._at = self._began_at = 0.0
        self._tokens = 0.0

    def add(self, now: float, tokens: float) -> None:
        if not self._tokens:
            self._began_at = now
        self._tokens = self._left(now) + tokens
        self._at = now

    def per_s(self, now: float) -> float:
        """Of a load that began lately, over the time since; at least a second."""
        if not self._tokens:
            return 0.0
        over_s = WINDOW_S * -math.expm1(-max(1.0, now - self._began_at) / WINDOW_S)
        return self._left(now) / over_s

    def _left(self, now: float) -> float:
        return self._tokens * math.exp((self._at - now) / WINDOW_S)
