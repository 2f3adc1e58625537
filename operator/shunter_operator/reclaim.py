"""Which pools give GPUs to pools of a higher priority when there are too few. Pure.

A pool is short when pods of it have found no GPU for `spillAfter` and no other profile of it can
stand in. It is given replicas of pools of a lower priority, one at a time for each accelerator,
the lowest priority first, and never below their floor. A profile is taken for one that would help
where its pods have the same accelerator, at least the same node labels, as many GPUs, and no
toleration that the pool in need lacks: so no node needs to be looked at. Until that pool is short
no more, such profiles do not grow above their floor. A replica that nobody took the place of is the
last that its profile gives.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
    for (key, profile), reclaim in sorted({**state.held, **state.standing}.items()):
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
    """One pass; `standing` grows by what is taken in it, `held` by who may not grow. With hundreds
    of pools that are short, who `hosts` a shape is looked up once for all that ask for it."""

    holdings: Mapping[PoolKey, Holding]
    now: datetime
    standing: dict[At, Reclaim]
    held: dict[At, Reclaim] = field(default_factory=dict)
    held_for: set[Shape] = field(default_factory=set)
    hosts: dict[Shape, list[At]] = field(default_factory=dict)
    shapes: dict[At, Shape] = field(default_factory=dict)

    def serve(self, taker: Holding) -> None:
        """For a pool that is short: takes one replica, where one may be had, and holds those back
        that would take what becomes free before it."""
        wanted = list(shortages(taker, self.now, self._limits(taker)))
        if not any(self._waits(taker, shape.accelerator) for _, shape in wanted):
            self._take(taker, wanted)
        for lacking, shape in wanted:
            self._hold_back(taker, lacking, shape)

    def _take(self, taker: Holding, wanted: Iterable[tuple[Pod, Shape]]) -> None:
        for lacking, shape in wanted:
            if at := self._giver(taker, shape):
                giver = self.holdings[at[0]]
                self.standing[at] = replace(
                    _reclaim(taker, lacking, self._stays(giver, at[1]) - 1),
                    placed=taker.placed,
                    others=self._others(taker, giver),
                )
                return

    def _hold_back(self, taker: Holding, lacking: Pod, shape: Shape) -> None:
        """Profiles of a lower priority keep what has a node, and may come up to their floor. A pool
        of a higher priority that asks for the same has held back all of them."""
        if shape in self.held_for:
            return
        self.held_for.add(shape)
        for at, giver in self._hosting(taker, shape):
            if at not in self.standing and at not in self.held:
                there = sum(p.scheduled for p in giver.pods_of(at[1]))
                limit = max(there, giver.floor - (giver.placed - there))
                self.held[at] = replace(_reclaim(taker, lacking, limit), taken=False)

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
            (giver.priority, -self._spare(giver), at)
            for at, giver in self._hosting(taker, shape)
            if self._may_give(giver, at[1], taker)
        ]
        return min(found)[2] if found else None

    def _hosting(self, taker: Holding, shape: Shape) -> Iterator[tuple[At, Holding]]:
        """Profiles of a lower priority whose nodes would do."""
        if shape not in self.hosts:
            shapes = self._shapes()
            self.hosts[shape] = [at for at, other in shapes.items() if other.hosts(shape)]
        for at in self.hosts[shape]:
            giver = self.holdings[at[0]]
            if giver.priority < taker.priority:
                yield at, giver

    def _shapes(self) -> Mapping[At, Shape]:
        if not self.shapes:
            for key, holding in self.holdings.items():
                for profile in holding.pool.profiles:
                    if shape := shape_of(holding, profile.name):
                        self.shapes[key, profile.name] = shape
        return self.shapes

    def _limits(self, holding: Holding) -> Mapping[str, int]:
        at = {profile.name: (holding.key, profile.name) for profile in holding.pool.profiles}
        found = {name: self.standing.get(one) or self.held.get(one) for name, one in at.items()}
        return {name: reclaim.limit for name, reclaim in found.items() if reclaim}

    def _others(self, taker: Holding, giver: Holding) -> int:
        """Pods that have a node, of all pools but two."""
        return sum(h.placed for h in self.holdings.values()) - taker.placed - giver.placed

    def _may_give(self, giver: Holding, profile: str, taker: Holding) -> bool:
        before = self.standing.get((giver.key, profile))
        if before and before.by == str(taker.key):
            helped = taker.placed > before.placed
            if not helped and self._others(taker, giver) <= before.others:
                return False  # nobody has taken the place of the last one
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


def shortages(
    holding: Holding, now: datetime, limits: Mapping[str, int]
) -> Iterator[tuple[Pod, Shape]]:
    """A pod that finds no GPU, and what it asks for, of each profile that has one, where no other
    profile of the pool can stand in, within its `limits`. Preferred profiles first."""
    spec, profiles = holding.pool.spec.scaling, holding.pool.profiles
    counts = {p: count_of(live) for p, live in holding.deployments.items()}
    homeless = {
        p.name: [pod for pod in holding.lacking(p.name) if stuck(pod, now, spec.spill_after_s)]
        for p in profiles
    }
    wanted = sum(counts[p.name].own for p in profiles if p.name in counts)
    trying = sum(not p.deleting for p in holding.pods) - sum(map(len, homeless.values()))
    room = sum(
        max(0, min(p.replicas.max, limits.get(p.name, p.replicas.max)) - counts[p.name].total)
        for p in profiles
        if p.name in counts and not homeless[p.name]
    )
    if wanted - trying - room <= 0:
        return
    for profile in profiles:
        shape = shape_of(holding, profile.name)
        if homeless[profile.name] and shape is not None:
            yield homeless[profile.name][0], shape


def _reclaim(taker: Holding, lacking: Pod, limit: int) -> Reclaim:
    lacks = unschedulable(lacking.unschedulable_message)[1]
    return Reclaim(limit, str(taker.key), taker.priority, lacks)


def _hosts(giver: Shape | None, taker: Shape | None) -> bool:
    return giver is not None and taker is not None and giver.hosts(taker)
