"""Which pools give GPUs to pools of a higher priority when there are too few. Pure.

A pool is short when pods of it have found no GPU for `spillAfter` and no other profile of it can
stand in. It is given replicas of pools of a lower priority, one at a time for each accelerator,
the lowest priority first, and never below their floor. A profile is taken for one that would help
where its pods have the same accelerator, at least the same node labels, as many GPUs, and no
toleration that the pool in need lacks: so no node needs to be looked at. Until that pool is short
no more, a profile that gave does not grow back. A replica that did not help is the profile's last.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shunter_operator.diagnose import unschedulable
from shunter_operator.holdings import Holding, Shape, shape_of
from shunter_operator.names import PoolKey
from shunter_operator.scaling import count_of, stuck
from shunter_operator.values import Pod, Reclaim

# A profile of a pool.
At = tuple[PoolKey, str]


def reclaims(holdings: Iterable[Holding], now: datetime) -> dict[PoolKey, dict[str, Reclaim]]:
    """What each profile has to give up, by pool: what was taken before and is still needed, and
    at most one replica more for each accelerator."""
    by_key = {holding.key: holding for holding in holdings}
    state = _Reclaiming(by_key, now, _standing(by_key, now))
    for holding in sorted(by_key.values(), key=lambda h: (-h.priority, h.key)):
        state.serve(holding)
    found: dict[PoolKey, dict[str, Reclaim]] = {}
    for (key, profile), reclaim in sorted(state.standing.items()):
        found.setdefault(key, {})[profile] = reclaim
    return found


def _standing(holdings: Mapping[PoolKey, Holding], now: datetime) -> dict[At, Reclaim]:
    """Reclaims of before whose pool still lacks a GPU that the profile can give."""
    by_name = {str(key): holding for key, holding in holdings.items()}
    found: dict[At, Reclaim] = {}
    for key, giver in holdings.items():
        for profile, reclaim in giver.reclaims():
            taker = by_name.get(reclaim.by)
            if taker is None or not _still(giver, profile, taker):
                continue
            there = [p for p in giver.pods if p.profile == profile]  # those that end included
            if reclaim.freed_at is None and len(there) <= reclaim.limit:
                reclaim = replace(reclaim, freed_at=now.replace(microsecond=0))
            found[key, profile] = reclaim
    return found


def _still(giver: Holding, profile: str, taker: Holding) -> bool:
    shape = shape_of(giver, profile)
    return (
        taker.priority > giver.priority
        and shape is not None
        and any(
            taker.lacking(p.name) and _hosts(shape, shape_of(taker, p.name))
            for p in taker.pool.profiles
        )
    )


@dataclass(slots=True)
class _Reclaiming:
    """One pass; `standing` grows by what is taken in it."""

    holdings: Mapping[PoolKey, Holding]
    now: datetime
    standing: dict[At, Reclaim]

    def serve(self, taker: Holding) -> None:
        """Takes one replica for a pool that is short, where one may be had."""
        wanted = list(shortages(taker, self.now))
        if not wanted or any(self._waits(taker, shape.accelerator) for _, shape in wanted):
            return
        for lacking, shape in wanted:
            if at := self._giver(taker, shape):
                limit = self._stays(self.holdings[at[0]], at[1]) - 1
                lacks = unschedulable(lacking.unschedulable_message)[1]
                by = str(taker.key)
                self.standing[at] = Reclaim(limit, by, taker.priority, lacks, taker.placed)
                return

    def _waits(self, taker: Holding, accelerator: str) -> bool:
        """Whether something that was taken is still on its way: to this pool, or of this kind."""
        settle = timedelta(seconds=taker.pool.spec.scaling.spill_after_s)
        for (key, profile), reclaim in self.standing.items():
            kind = self.holdings[key].pool.profile(profile).accelerator
            concerns = reclaim.by == str(taker.key) or kind == accelerator
            freed_at = reclaim.freed_at
            if concerns and (freed_at is None or self.now - freed_at < settle):
                return True
        return False

    def _giver(self, taker: Holding, shape: Shape) -> At | None:
        """The profile that gives the next replica: of the lowest priority, then with the most to
        spare."""
        found = [
            (giver.priority, -self._spare(giver), (key, profile.name))
            for key, giver in self.holdings.items()
            if giver.priority < taker.priority
            for profile in giver.pool.profiles
            if _hosts(shape_of(giver, profile.name), shape)
            and self._may_give(giver, profile.name, taker)
        ]
        return min(found)[2] if found else None

    def _may_give(self, giver: Holding, profile: str, taker: Holding) -> bool:
        before = self.standing.get((giver.key, profile))
        if before and before.by == str(taker.key) and taker.placed <= before.placed:
            return False  # the last one did not help
        stays = self._stays(giver, profile)
        return stays > 0 and self._serving(giver, {profile: stays - 1}) >= giver.floor

    def _spare(self, giver: Holding) -> int:
        return self._serving(giver, {}) - giver.floor

    def _serving(self, giver: Holding, limits: Mapping[str, int]) -> int:
        """Instances of a pool that serve and stay, under what was and is to be taken."""
        total = 0
        for profile in giver.pool.profiles:
            ready = [p for p in giver.pods_of(profile.name) if p.ready and p.drain_since is None]
            stays = self._stays(giver, profile.name)
            total += min(len(ready), limits.get(profile.name, stays))
        return total

    def _stays(self, giver: Holding, profile: str) -> int:
        """Pods of a profile that have a node and keep it."""
        live = giver.deployments.get(profile)
        placed = sum(p.scheduled for p in giver.pods_of(profile))
        most = min(placed, count_of(live).total if live is not None else 0)
        taken = self.standing.get((giver.key, profile))
        return min(most, taken.limit) if taken else most


def shortages(holding: Holding, now: datetime) -> Iterator[tuple[Pod, Shape]]:
    """A pod that finds no GPU, and what it asks for, of each profile that has one, where no other
    profile of the pool can stand in. Preferred profiles first."""
    spec, profiles = holding.pool.spec.scaling, holding.pool.profiles
    counts = {p: count_of(live) for p, live in holding.deployments.items()}
    homeless = {
        p.name: [pod for pod in holding.lacking(p.name) if stuck(pod, now, spec.spill_after_s)]
        for p in profiles
    }
    wanted = sum(counts[p.name].own for p in profiles if p.name in counts)
    trying = sum(not p.deleting for p in holding.pods) - sum(map(len, homeless.values()))
    room = sum(
        max(0, p.replicas.max - counts[p.name].total)
        for p in profiles
        if p.name in counts and not homeless[p.name]
    )
    if wanted - trying - room <= 0:
        return
    for profile in profiles:
        shape = shape_of(holding, profile.name)
        if homeless[profile.name] and shape is not None:
            yield homeless[profile.name][0], shape


def _hosts(giver: Shape | None, taker: Shape | None) -> bool:
    return giver is not None and taker is not None and giver.hosts(taker)
