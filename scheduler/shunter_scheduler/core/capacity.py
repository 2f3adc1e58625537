"""What one instance carries under the SLO, and how many of which profile a demand takes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shunter_api.profile import Profile
from shunter_scheduler.core.costs import ProfileCosts
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.profile_model import ProfileModel

PREFILL_SHARE = 0.5
DEFAULT_TPOT_S = 0.1  # of a pool without a target


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in flight and waiting, and what a mean one of them is like."""

    requests: int
    context_tokens: float
    output_tokens: float
    held_tokens: float  # of KV, by one of them in the mean while they come and go


def load_of(entries: list[Entry]) -> Load:
    count = len(entries)
    if not count:
        return Load(0, 1024.0, 256.0, 1152.0)
    context = sum(e.context_tokens for e in entries) / count
    outputs = sum(left_to_generate(e) for e in entries) / count
    prompts = sum(e.request.prompt_tokens for e in entries) / count
    # What they hold now is what such a load holds, unless most have only begun: then it is half of
    # the way to where they end.
    return Load(count, context, outputs, max(context, (prompts + context + outputs) / 2))


def model_of(pool: PoolRecord, profile: Profile, costs: ProfileCosts) -> ProfileModel:
    return pool.models.get(profile.name) or ProfileModel(costs(pool.spec, profile))


def carries(model: ProfileModel, load: Load, pool: PoolRecord, *, prefills: bool = True) -> float:
    """Sequences at once; at least one. `prefills`: it computes their prompts, too."""
    tpot_s = pool.spec.slo.tpot_s or DEFAULT_TPOT_S
    context = load.context_tokens + load.output_tokens / 2
    base_s = model.decode_step_s(0, 0)
    by_tpot = (tpot_s - base_s) / (model.decode_step_s(1, context) - base_s)
    by_memory = model.cost.kv_capacity_tokens / load.held_tokens
    by_batch = min(model.cost.max_num_seqs, pool.settings.head_room.max_requests)
    most = min(by_tpot, by_memory, by_batch)
    if prefills:
        prefill_s = model.prefill_s(int(load.context_tokens))
        lifetime_s = prefill_s + load.output_tokens * tpot_s
        most = min(most, PREFILL_SHARE * lifetime_s / prefill_s)
    return max(1.0, pool.settings.utilisation * most)


def prefills_per_s(model: ProfileModel, load: Load, pool: PoolRecord) -> float:
    """Prompt tokens that an instance computes in a second."""
    tokens = max(1, int(load.context_tokens))
    return pool.settings.utilisation * tokens / model.prefill_s(tokens)


def cheapest(profiles: Iterable[Profile], carried: Mapping[str, float]) -> list[Profile]:
    """By what one carries for its price."""
    return sorted(profiles, key=lambda p: (float(p.cost_per_hour) or 1.0) / carried[p.name])


def fill(
    profiles: Iterable[Profile],
    carried: Mapping[str, float],
    demand: float,
    desired: dict[str, int],
) -> float:
    """Adds instances to `desired`, of the cheapest profiles first; the demand that is left."""
    profiles = list(profiles)
    rest = demand - sum(carried[p.name] * desired[p.name] for p in profiles)
    for profile in cheapest(profiles, carried):
        if rest <= 0:
            break
        room = profile.replicas.max - desired[profile.name]
        more = max(0, min(room, math.ceil(rest / carried[profile.name])))
        desired[profile.name] += more
        rest -= more * carried[profile.name]
    return max(0.0, rest)


def needs(profile: Profile, carries: float, load: Load) -> str:
    """Why so many, in words."""
    return (
        f"{load.requests} requests in flight and waiting; one {profile.name} carries "
        f"{carries:.0f} within the SLO"
    )
