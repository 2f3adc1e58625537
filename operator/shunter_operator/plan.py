"""What to do, from what is wanted and what is there: `plan` is pure and level-triggered.

Its only memory is the cluster's: timestamps of conditions, our annotations. So it may be called at
any time and after any crash, and it returns nothing where nothing is to be done.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from shunter_api.modelpool import Profile
from shunter_api.status import PoolStatus
from shunter_operator import draining, engine_files, evictions, rollout, scaling, spill
from shunter_operator.draining import empty_victim, goes_first
from shunter_operator.engines import unsupported
from shunter_operator.evictions import Evictions, find_evictions
from shunter_operator.manifests import (
    Scale,
    deployment,
    manifests_of,
    pod_template,
    ref_of,
    template_digest,
)
from shunter_operator.merge import differs
from shunter_operator.names import FINALIZER, LABEL_PROFILE, Ref
from shunter_operator.scaled import reclaimed_why, scaled
from shunter_operator.scaling import Count
from shunter_operator.status import status_of
from shunter_operator.values import (
    Action,
    Apply,
    Delete,
    Desired,
    Environment,
    Event,
    Manifest,
    Observed,
    Pod,
    SetFinalizer,
    SetInService,
    SetStatus,
    Why,
)

SCALE_DOWN = Why("ScaleDown", "fewer instances are wanted")
PROFILE_REMOVED = Why("ProfileRemoved", "its profile is taken out of the pool")
POOL_DELETED = Why("PoolDeleted", "the pool is deleted")
SERVING_EVERY = timedelta(seconds=10)


def plan(
    desired: Desired, observed: Observed, environment: Environment, now: datetime
) -> list[Action]:
    """Actions in the order in which they are to be carried out."""
    counts: dict[str, Count] = {}
    if desired.deleted_at is not None:
        actions = list(_let_go(desired, observed, now))
    else:
        actions = [] if FINALIZER in observed.finalizers else [SetFinalizer(True)]
        if desired.conflict is None and unsupported(desired.pool, environment) is None:
            counts = spill.wanted(desired, observed, now)
            actions += _serve(desired, observed, environment, counts, now)
        else:
            actions += evictions.let_pass(observed.pods, observed.nodes)
    status = status_of(desired, observed, environment, counts, now)
    if SetFinalizer(False) not in actions and _worth_writing(status, observed, now):
        actions.append(SetStatus(status))
    return actions


def _worth_writing(status: PoolStatus, observed: Observed, now: datetime) -> bool:
    """Everything at once, but for serving figures, which change all the time."""
    before = observed.status
    if status == before:
        return False
    rested = observed.status_set_at is None or now - observed.status_set_at >= SERVING_EVERY
    return rested or status.model_copy(update={"serving": before.serving}) != before


def _serve(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    counts: dict[str, Count],
    now: datetime,
) -> Iterator[Action]:
    for manifest in manifests_of(desired, environment):
        yield from _apply(manifest, observed)
    wanted = sum(count.own for count in counts.values())
    leaving = find_evictions(desired, observed, wanted, now)
    yield from evictions.leave(desired, observed, environment, leaving, now)
    for profile in desired.pool.profiles:
        count = counts[profile.name]
        yield from _profile(desired, observed, environment, profile, count, leaving, now)
    yield from _orphans(desired, observed, now)
    if old := engine_files.outdated(desired.pool, observed):
        made = (pod_template(desired, p, environment) for p in desired.pool.profiles)
        yield from engine_files.discard(old, observed, [template_digest(t) for t in made])
    if not environment.deletion_cost:
        yield from _in_service(observed)


def _apply(manifest: Manifest, observed: Observed) -> Iterator[Action]:
    if differs(manifest, observed.objects.get(ref_of(manifest))):
        yield Apply(manifest)


def _profile(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    profile: Profile,
    count: Count,
    leaving: Evictions,
    now: datetime,
) -> Iterator[Action]:
    """Grows at once; shrinks by as many pods as have been emptied. Pods whose node is about to go
    are there in addition, until they are empty and have been replaced."""
    there = scaling.current(desired, observed, profile.name)
    alive = [p for p in observed.pods if p.profile == profile.name and not p.deleting]
    has = there.total if there is not None else 0
    replaced = leaving.replaced(alive, count.total, environment)
    leavers = [p for p in alive if p.name in leaving.leavers and p not in replaced]
    count = replace(count, surge=len(leavers))
    replicas = count.total
    chosen: list[Pod] = []
    if has > count.total:
        # What an earlier, smaller number has given up may still be there.
        given_up = max(0, len(alive) - has)
        candidates = [p for p in alive if p not in leavers]
        chosen = scaling.victims(
            candidates, has - count.total + given_up, draining.loads_of(observed)
        )
        why = reclaimed_why(desired, profile.name) or SCALE_DOWN
        for pod in chosen:
            yield from empty_victim(desired, observed, environment, pod, why, now)
        gone = sum(goes_first(pod, environment) for pod in chosen)
        replicas = max(count.total, min(has, len(alive) - gone))
    template = pod_template(desired, profile, environment)
    making_room = _making_room(desired, observed, profile, template, now)
    if making_room is not None:
        yield from empty_victim(desired, observed, environment, making_room, rollout.WHY, now)
    if len(alive) <= has:
        going = {p.name for p in (*chosen, *leavers, making_room) if p is not None}
        yield from draining.keep(p for p in alive if p.name not in going)
    shown = _attributed(count, there, replicas)
    missing = 0
    if making_room is not None and goes_first(making_room, environment):
        missing = rollout.may_miss(alive, template_digest(template), replicas)
    scale = Scale(replicas, shown.spilled, shown.surge, missing)
    yield from _apply(deployment(desired, profile, template, scale), observed)
    if environment.watches_nodes:
        yield from evictions.labels(alive, leaving, replaced, environment)
    yield from scaled(desired, observed, profile, there, shown)


def _making_room(
    desired: Desired, observed: Observed, profile: Profile, template: Manifest, now: datetime
) -> Pod | None:
    pods = [p for p in observed.pods if p.profile == profile.name]
    loads, after_s = draining.loads_of(observed), desired.pool.spec.scaling.spill_after_s
    return rollout.next_to_go(pods, template_digest(template), loads, now, after_s)


def _attributed(count: Count, there: Count | None, replicas: int) -> Count:
    """Whose the replicas are. Of pods that are on their way out, stand-ins are counted first."""
    surplus = replicas - count.total
    leaving = max(0, there.spilled - count.spilled) if there is not None else 0
    spilled = count.spilled + min(surplus, leaving)
    return Count(replicas - spilled - count.surge, spilled, count.surge)


def _in_service(observed: Observed) -> Iterator[Action]:
    for pod in observed.pods:
        if pod.gated is not None and not pod.deleting and pod.gated == pod.drained:
            yield SetInService(pod.ref, not pod.drained)


def _orphans(desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    """Deployments of profiles that are no more: emptied, then deleted."""
    profiles = {p.name for p in desired.pool.profiles}
    for ref in sorted(observed.objects):
        if ref.kind != "Deployment":
            continue
        profile = profile_of(ref, observed.objects[ref])
        if profile in profiles:
            continue
        yield from draining.empty_all(desired, observed, profile, PROFILE_REMOVED, now)
        if not draining.busy(desired, observed, profile, now):
            yield Delete(ref)
            yield Event("ProfileRemoved", f"{ref.name} is empty and goes")


def _let_go(desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    """The pool is deleted: drain everything, then release it to the garbage collector."""
    if FINALIZER not in observed.finalizers:
        return
    if desired.namespace_ends:
        yield SetFinalizer(False)  # its pods end whatever we do, and so may we
        return
    profiles = {p.profile for p in observed.pods}
    for profile in sorted(profiles):
        yield from draining.empty_all(desired, observed, profile, POOL_DELETED, now)
    assert desired.deleted_at is not None
    late = (now - desired.deleted_at).total_seconds() >= draining.timeout_s(desired)
    if late or not any(draining.busy(desired, observed, profile, now) for profile in profiles):
        yield SetFinalizer(False)


def profile_of(ref: Ref, live: Manifest) -> str:
    return str((live["metadata"].get("labels") or {}).get(LABEL_PROFILE, ref.name))
