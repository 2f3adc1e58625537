"""What to do, from what is wanted and what is there: `plan` is pure and level-triggered.

Its only memory is the cluster's: timestamps of conditions, our annotations. So it may be called at
any time and after any crash, and it returns nothing where nothing is to be done.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from shunter_api.modelpool import Profile
from shunter_api.status import PoolStatus
from shunter_operator import scaling
from shunter_operator.engines import unsupported
from shunter_operator.manifests import deployment, manifests_of, ref_of
from shunter_operator.merge import differs
from shunter_operator.names import FINALIZER, LABEL_PROFILE, Ref
from shunter_operator.scaling import Count
from shunter_operator.status import status_of
from shunter_operator.values import (
    Action,
    Apply,
    Delete,
    Desired,
    Drain,
    Environment,
    Event,
    InstanceLoad,
    Manifest,
    MarkDrained,
    MarkVictim,
    Observed,
    Pod,
    SetFinalizer,
    SetInService,
    SetStatus,
    Undrain,
    Unmark,
)

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
            counts = scaling.wanted(desired, observed, now)
            actions += _serve(desired, observed, environment, counts, now)
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
    for profile in desired.pool.profiles:
        yield from _profile(desired, observed, environment, profile, counts[profile.name], now)
    yield from _orphans(desired, observed, now)
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
    now: datetime,
) -> Iterator[Action]:
    """Grows at once; shrinks by as many pods as have been emptied."""
    there = scaling.current(desired, observed, profile.name)
    alive = [p for p in observed.pods if p.profile == profile.name and not p.deleting]
    has = there.total if there is not None else 0
    replicas = count.total
    chosen: list[Pod] = []
    if has > count.total:
        # What an earlier, smaller number has given up may still be there.
        given_up = max(0, len(alive) - has)
        chosen = scaling.victims(alive, has - count.total + given_up, _loads(observed))
        yield from _empty_victims(desired, observed, environment, chosen, now)
        gone = sum(_goes_first(pod, environment) for pod in chosen)
        replicas = max(count.total, min(has, len(alive) - gone))
    if len(alive) <= has:
        yield from _keep(p for p in alive if p not in chosen)
    shown = _attributed(count, there, replicas)
    manifest = deployment(desired, profile, environment, replicas, shown.spilled)
    yield from _apply(manifest, observed)
    yield from _told(desired, observed, profile, there, shown)


def _attributed(count: Count, there: Count | None, replicas: int) -> Count:
    """Whose the replicas are. Of pods that are on their way out, stand-ins are counted first."""
    surplus = replicas - count.total
    leaving = max(0, there.spilled - count.spilled) if there is not None else 0
    spilled = count.spilled + min(surplus, leaving)
    return Count(replicas - spilled, spilled)


def _told(
    desired: Desired, observed: Observed, profile: Profile, there: Count | None, count: Count
) -> Iterator[Action]:
    """Kubernetes Events for what an owner wants to know, with the why."""
    before = there or Count(0)
    if count.spilled > before.spilled:
        why = next((p.unschedulable_message for p in observed.pods if p.unschedulable_message), "")
        more = count.spilled - before.spilled
        yield Event("SpilledOver", f"{more} more on {profile.name}: {why}".rstrip(": "), True)
    elif count.spilled < before.spilled:
        fewer = before.spilled - count.spilled
        yield Event("Returned", f"{fewer} fewer on {profile.name}: preferred profiles serve again")
    elif there is not None and count.own != there.own:
        reason = "ScaledUp" if count.own > there.own else "ScaledDown"
        advice = observed.scheduler.advice.get(profile.name) if observed.scheduler else None
        manual = desired.pool.spec.scaling.mode == "Manual" or advice is None
        why = "as the resource says" if manual or advice is None else advice.reason
        yield Event(reason, f"{profile.name}: {there.own} to {count.own}: {why}")


def _goes_first(pod: Pod, environment: Environment) -> bool:
    """Whether a smaller Deployment deletes this pod before those that serve."""
    return not pod.ready or (pod.drained and environment.deletion_cost)


def _empty_victims(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    chosen: Iterable[Pod],
    now: datetime,
) -> Iterator[Action]:
    for pod in chosen:
        if _goes_first(pod, environment) or pod.drained:
            continue
        yield from _empty(desired, observed, pod, now)
        if scaling.emptied(pod, _loads(observed), now, _timeout_s(desired)):
            yield MarkDrained(pod.ref)


def _empty(desired: Desired, observed: Observed, pod: Pod, now: datetime) -> Iterator[Action]:
    """Marks the pod, and asks for its drain as long as the scheduler does not do it."""
    if pod.drain_since is None:
        yield MarkVictim(pod.ref, now)
        yield Event("Draining", f"{pod.name}: its requests move to other instances")
    load = (_loads(observed) or {}).get(pod.name)
    if load is not None and load.state not in ("draining", "drained"):
        passed = (now - pod.drain_since).total_seconds() if pod.drain_since else 0.0
        yield Drain(pod.name, max(1.0, _timeout_s(desired) - passed))


def _keep(pods: Iterable[Pod]) -> Iterator[Action]:
    """Takes back into service what was about to go and is needed again."""
    for pod in pods:
        if pod.drain_since is not None or pod.drained:
            yield Undrain(pod.name)
            yield Unmark(pod.ref)
            yield Event("DrainCancelled", f"{pod.name} is needed again")


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
        yield from _empty_all(desired, observed, profile, now)
        if not _busy(desired, observed, profile, now):
            yield Delete(ref)
            yield Event("ProfileRemoved", f"{ref.name} is empty and goes")


def _let_go(desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    """The pool is deleted: drain everything, then release it to the garbage collector."""
    if FINALIZER not in observed.finalizers:
        return
    profiles = {p.profile for p in observed.pods}
    for profile in sorted(profiles):
        yield from _empty_all(desired, observed, profile, now)
    assert desired.deleted_at is not None
    late = (now - desired.deleted_at).total_seconds() >= _timeout_s(desired)
    if late or not any(_busy(desired, observed, profile, now) for profile in profiles):
        yield SetFinalizer(False)


def _empty_all(
    desired: Desired, observed: Observed, profile: str, now: datetime
) -> Iterator[Action]:
    for pod in observed.pods:
        if pod.profile == profile and pod.ready and not pod.deleting:
            yield from _empty(desired, observed, pod, now)


def _busy(desired: Desired, observed: Observed, profile: str, now: datetime) -> bool:
    loads, timeout_s = _loads(observed), _timeout_s(desired)
    return any(
        p.profile == profile
        and p.ready
        and not p.deleting
        and not scaling.emptied(p, loads, now, timeout_s)
        for p in observed.pods
    )


def profile_of(ref: Ref, live: Manifest) -> str:
    return str((live["metadata"].get("labels") or {}).get(LABEL_PROFILE, ref.name))


def _loads(observed: Observed) -> Mapping[str, InstanceLoad] | None:
    return observed.scheduler.instances if observed.scheduler is not None else None


def _timeout_s(desired: Desired) -> float:
    return desired.pool.migration.drain_timeout_s
