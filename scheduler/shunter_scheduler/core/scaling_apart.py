"""Scaling of pools with roles: prefill instances for the prompt tokens that come in a second,
decode instances for the sequences at once, those that do both for what is left of either."""

from collections.abc import Mapping

from shunter_api.profile import Profile, Role
from shunter_scheduler.core.capacity import Load, carries, fill, needs, prefills_per_s
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.moving import copies_kv
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.profile_model import ProfileModel

CATCH_UP_S = 10.0  # in which prompts that wait are to be computed, beside those that come


def desired_apart(
    pool: PoolRecord,
    models: Mapping[str, ProfileModel],
    load: Load,
    entries: list[Entry],
    now: float,
) -> tuple[dict[str, int], dict[str, str]]:
    """How many of each profile, and why."""
    assert pool.roles is not None
    waiting = sum(e.context_tokens for e in entries if e.state == "waiting")
    tokens_per_s = pool.roles.demand.per_s(now) + waiting / CATCH_UP_S if entries else 0.0
    carried = _carried(pool, models, load)
    desired = {p.name: p.replicas.min for p in pool.spec.profiles}
    whole = _of(pool, "Any")
    relief = sum(carried[p.name] * desired[p.name] for p in whole) / max(1, load.requests)
    apart = max(0.0, 1.0 - relief)
    prompts = fill(_of(pool, "Prefill"), carried, apart * tokens_per_s, desired)
    sequences = fill(_of(pool, "Decode"), carried, apart * load.requests, desired)
    left = max(prompts / max(1.0, tokens_per_s), sequences / max(1, load.requests))
    fill(whole, carried, min(1.0, 1.0 - apart + left) * load.requests, desired)
    reasons = {p.name: _reason(p, carried[p.name], load, tokens_per_s) for p in pool.spec.profiles}
    return desired, reasons


def keep_both(pool: PoolRecord, desired: dict[str, int]) -> None:
    """A pool that has any instance has one of each role that it names: the last is not taken away
    for want of load, since then all of its work falls to the other role."""
    roles: tuple[Role, ...] = ("Prefill", "Decode")
    for role in roles:
        profiles = [p for p in _of(pool, role) if p.replicas.max]
        if profiles and any(desired.values()) and not any(desired[p.name] for p in profiles):
            there = {record.value.profile for record in pool.records()}
            kept = min(profiles, key=lambda p: p.name not in there)
            desired[kept.name] = 1


def _of(pool: PoolRecord, role: Role) -> list[Profile]:
    return [profile for profile in pool.spec.profiles if profile.role == role]


def _carried(pool: PoolRecord, models: Mapping[str, ProfileModel], load: Load) -> dict[str, float]:
    """Prompt tokens a second of role Prefill, sequences of the others. What is handed over without
    a copy of its KV is prefilled again."""
    copied = _copied(pool)
    found: dict[str, float] = {}
    for profile in pool.spec.profiles:
        model = models[profile.name]
        if profile.role == "Prefill":
            found[profile.name] = prefills_per_s(model, load, pool)
        else:
            prefills = profile.role == "Any" or not copied
            found[profile.name] = carries(model, load, pool, prefills=prefills)
    return found


def _copied(pool: PoolRecord) -> bool:
    """KV goes from each prefill instance to some other."""
    assert pool.roles is not None
    sources, others = pool.roles.of_role("Prefill"), pool.roles.of_role("Decode", "Any")
    return all(any(copies_kv(pool.spec, s, other) for other in others) for s in sources)


def _reason(profile: Profile, carries: float, load: Load, tokens_per_s: float) -> str:
    if profile.role != "Prefill":
        return needs(profile, carries, load)
    return f"{tokens_per_s:.0f} prompt tokens a second; one {profile.name} computes {carries:.0f}"
