"""Instances of one profile that stand in for another's. Pure.

Profiles are in order of preference. Pods that no node takes for `spillAfter` are stood in for by
the next profile; they stay Pending, as the probe that finds out when there is room. A stand-in goes
once as many of the pods that it stands in for have been ready for `returnAfter`. Where the last
profiles have no place either, earlier ones stand in that have shown no want of room: the scheduler
may ask for a cheaper profile than the preferred one. Only profiles of one role stand in for each
other: what decodes is no help where prompts wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from shunter_api.profile import Profile, Role
from shunter_operator.scaling import Count, current, own_replicas, stuck
from shunter_operator.values import Desired, Observed, Pod


@dataclass(frozen=True, slots=True)
class _Row:
    """A profile at one time: instances of its own that it is to have and may have, and its pods."""

    name: str
    role: Role
    own: int
    most: int
    stand_ins: int  # that it has now
    stuck: int  # pods that no node has taken for too long
    serving: int  # pods that are ready and stay
    settled: int  # pods that have been ready for long enough

    @property
    def kept(self) -> int:
        return min(self.own, self.most)

    @property
    def given(self) -> int:
        """Instances that a pool of a higher priority has got."""
        return self.own - self.kept


def wanted(desired: Desired, observed: Observed, now: datetime) -> dict[str, Count]:
    """By profile, in the pool's order."""
    own = own_replicas(desired, observed, now)
    rows = [_row(desired, observed, p, own[p.name], now) for p in desired.pool.profiles]
    found: dict[str, Count] = {}
    for role in dict.fromkeys(row.role for row in rows):
        alike = [row for row in rows if row.role == role]
        counts, homeless = _down(alike)
        found |= _back(alike, counts, homeless)
    return {row.name: found[row.name] for row in rows}


def most_of(desired: Desired, profile: Profile) -> int:
    """Pods that a profile may have: fewer while a pool of a higher priority needs its GPUs."""
    reclaim = desired.reclaims.get(profile.name)
    most = profile.replicas.max
    return min(most, reclaim.limit) if reclaim is not None else most


def _row(desired: Desired, observed: Observed, profile: Profile, own: int, now: datetime) -> _Row:
    scaling = desired.pool.spec.scaling
    there = current(desired, observed, profile.name)
    pods = [p for p in observed.pods if p.profile == profile.name and not p.deleting]
    return _Row(
        name=profile.name,
        role=profile.role,
        own=own,
        most=most_of(desired, profile),
        stand_ins=there.spilled if there is not None else 0,
        stuck=sum(stuck(p, now, scaling.spill_after_s) for p in _homeless(observed, profile.name)),
        serving=sum(_stays(p, observed) for p in pods),
        settled=sum(_settled(p, now, scaling.return_after_s) for p in pods),
    )


def _down(rows: list[_Row]) -> tuple[dict[str, Count], int]:
    """Walks down the profiles with the number of instances that found no place above; that number
    at the end is returned too."""
    counts: dict[str, Count] = {}
    homeless = 0
    for index, row in enumerate(rows):
        taken = max(0, min(homeless, row.most - row.kept))
        count = counts[row.name] = Count(row.kept, taken, given=row.given)
        below = sum(later.stand_ins for later in rows[index + 1 :])
        unsettled = max(0, count.total - row.settled)
        lost = min(row.stuck, max(0, count.total - row.serving)) + row.given
        homeless += max(lost, min(unsettled + row.given, below)) - taken
    return counts, homeless


def _back(rows: list[_Row], counts: Mapping[str, Count], homeless: int) -> dict[str, Count]:
    """From the top again with those that found no place below. One that stands in already stays
    until what comes after it has settled."""
    found: dict[str, Count] = {}
    for index, row in enumerate(rows):
        count = counts[row.name]
        there = max(0, row.stand_ins - count.spilled)
        later = [(counts[other.name].total, other.settled) for other in rows[index + 1 :]]
        unsettled = sum(max(0, total - settled) for total, settled in later)
        more = homeless if not row.stuck else min(homeless, there)
        taken = max(0, min(max(more, min(there, unsettled)), row.most - count.total))
        found[row.name] = replace(count, spilled=count.spilled + taken)
        homeless -= min(taken, homeless)
    return found


def _homeless(observed: Observed, profile: str) -> list[Pod]:
    """Pods that nobody has a place for; not those that wait for the place of their predecessor."""
    pods = [p for p in observed.pods if p.profile == profile]
    placed = {p.template for p in pods if p.scheduled}
    return [p for p in pods if not p.deleting and not p.scheduled and placed <= {p.template}]


def _stays(pod: Pod, observed: Observed) -> bool:
    return pod.ready and pod.drain_since is None and pod.node not in observed.nodes


def _settled(pod: Pod, now: datetime, after_s: float) -> bool:
    since = pod.ready_since
    return since is not None and (now - since).total_seconds() >= after_s
