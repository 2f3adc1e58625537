"""How many instances each profile has of its own, and which pods go first. Pure.

What a profile is to have comes from the scheduler's advice (Auto) or from `spec.replicas` (Manual).
Stand-ins for pods without a place are the business of `shunter_operator.spill`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_operator.names import ANNOTATION_SPILLED, ANNOTATION_SURGE, Ref, deployment_name
from shunter_operator.scheduler_view import InstanceLoad
from shunter_operator.values import Desired, Enough, Manifest, Observed, Pod

# A pod that the scheduler does not name for so long after its drain has no requests.
UNKNOWN_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Count:
    """Instances of one profile: its own, those that stand in for other profiles, and those that
    replace others whose node is about to go. `given`: those that it lacks for another pool's sake.
    """

    own: int
    spilled: int = 0
    surge: int = 0
    given: int = 0

    @property
    def total(self) -> int:
        return self.own + self.spilled + self.surge


def current(desired: Desired, observed: Observed, profile: str) -> Count | None:
    """What the profile's Deployment has; None where there is none yet."""
    ref = Ref("Deployment", desired.key.namespace, deployment_name(desired.key.name, profile))
    live = observed.objects.get(ref)
    return count_of(live) if live is not None else None


def count_of(deployment: Manifest) -> Count:
    total = int(deployment["spec"].get("replicas", 1))
    annotations = deployment["metadata"].get("annotations") or {}
    spilled = min(total, _number(annotations.get(ANNOTATION_SPILLED, "")))
    surge = min(total - spilled, _number(annotations.get(ANNOTATION_SURGE, "")))
    return Count(total - spilled - surge, spilled, surge)


def _number(text: str) -> int:
    """0 where somebody else has written there."""
    return int(text) if text.isdecimal() else 0


def own_replicas(desired: Desired, observed: Observed, now: datetime) -> dict[str, int]:
    """What each profile is to have of its own, in the pool's order."""
    pool = desired.pool
    if pool.spec.scaling.mode == "Manual":
        return manual(pool)
    return {p.name: _auto(desired, observed, p, now) for p in pool.profiles}


def manual(pool: ModelPool) -> dict[str, int]:
    """`spec.replicas` filled in profile order; without it every profile's minimum. Where profiles
    have roles the minimums come first: the first profile alone would not do the work of all."""
    total = pool.spec.replicas
    if total is None:
        return {p.name: p.replicas.min for p in pool.profiles}
    own = dict.fromkeys((p.name for p in pool.profiles), 0)
    apart = any(p.role != "Any" for p in pool.profiles)
    steps = [(p.name, p.replicas.min) for p in pool.profiles if apart]
    for name, most in (*steps, *((p.name, p.replicas.max) for p in pool.profiles)):
        more = min(total, most - own[name])
        own[name] += more
        total -= more
    return own


def _auto(desired: Desired, observed: Observed, profile: Profile, now: datetime) -> int:
    """The scheduler's advice within the profile's bounds. Without advice nothing changes; fewer
    only after fewer have been enough for `scaleDownAfter`, or none for `scaleToZero.after`, which
    the scheduler has waited for."""
    least, most = profile.replicas.min, profile.replicas.max
    there = current(desired, observed, profile.name)
    if there is None:
        return least
    held = min(max(there.own, least), most)
    advised = advised_replicas(observed, profile)
    if advised is None or advised == held:
        return held
    if advised > held or idle(desired, observed):
        return advised
    after = timedelta(seconds=desired.pool.spec.scaling.scale_down_after_s)
    enough = observed.enough_since.get(profile.name, ())
    return min((held, *(count for count, since in enough if now - since >= after)))


def idle(desired: Desired, observed: Observed) -> bool:
    """Whether the scheduler says that no instance is needed, and none needs to be."""
    pool = desired.pool
    return pool.spec.scaling.from_zero is not None and all(
        advised_replicas(observed, profile) == 0 for profile in pool.profiles
    )


def advised_replicas(observed: Observed, profile: Profile) -> int | None:
    advice = observed.scheduler.advice.get(profile.name) if observed.scheduler else None
    if advice is None:
        return None
    return min(max(advice.replicas, profile.replicas.min), profile.replicas.max)


def enough_since(
    desired: Desired, observed: Observed, before: Mapping[str, Enough], now: datetime
) -> dict[str, Enough]:
    """By profile. Where there is no advice it starts anew: missing data scales nothing."""
    found: dict[str, Enough] = {}
    for profile in desired.pool.profiles:
        there = current(desired, observed, profile.name)
        advised = advised_replicas(observed, profile)
        if there is not None and advised is not None and advised < there.own:
            known = before.get(profile.name, ())
            since = min((since for count, since in known if count <= advised), default=now)
            more = (one for one in known if advised < one[0] < there.own)
            found[profile.name] = ((advised, since), *more)
    return found


def stuck(pod: Pod, now: datetime, after_s: float) -> bool:
    """Whether no node has taken the pod for so long."""
    since = pod.unschedulable_since
    return since is not None and (now - since).total_seconds() >= after_s


def victims(pods: Iterable[Pod], count: int, loads: Mapping[str, InstanceLoad] | None) -> list[Pod]:
    """The `count` pods that go first when their Deployment shrinks.

    The order is that of Kubernetes' ReplicaSet controller as far as it decides by itself (no node,
    then not ready); among ready pods first those that are on their way out already, then the
    cheapest to drain: fewest requests, fewest KV tokens, youngest.
    """

    def cost(pod: Pod) -> tuple[object, ...]:
        load = (loads or {}).get(pod.name)
        return (
            pod.scheduled,
            pod.ready,
            not pod.drained,
            pod.drain_since is None,
            load.running if load else 0,
            load.ledger_tokens if load else 0,
            -pod.created_at.timestamp() if pod.created_at else 0.0,
            pod.name,
        )

    return sorted((p for p in pods if not p.deleting), key=cost)[: max(0, count)]


def emptied(
    pod: Pod,
    loads: Mapping[str, InstanceLoad] | None,
    now: datetime,
    drain_timeout_s: float,
) -> bool:
    """Whether nothing runs there any more, or its time is up. `loads` None: nobody knows."""
    if not pod.ready:
        return True
    if pod.drain_since is None:
        return False
    passed_s = (now - pod.drain_since).total_seconds()
    if loads is None or passed_s >= drain_timeout_s:
        return passed_s >= drain_timeout_s
    load = loads.get(pod.name)
    if load is None:  # not known, or not known yet: a scheduler that has just started
        return passed_s >= UNKNOWN_AFTER_S
    return load.state in ("draining", "drained") and load.running == 0
