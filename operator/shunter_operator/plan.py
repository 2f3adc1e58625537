"""What to do, from what is wanted and what is there: `plan` is pure and level-triggered.

Its only memory is the cluster's: timestamps of conditions, our annotations. So it may be called at
any time and after any crash, and it returns nothing where nothing is to be done.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from shunter_api.status import PoolStatus
from shunter_operator import draining, engine_files, spill
from shunter_operator.draining import Situation
from shunter_operator.engines import unsupported
from shunter_operator.evictions import find_evictions, leave, let_pass
from shunter_operator.manifests import manifests_of, template_digest
from shunter_operator.names import FINALIZER, LABEL_PROFILE, Ref
from shunter_operator.profiles import applied, serve_profile
from shunter_operator.scaling import Count
from shunter_operator.status import status_of
from shunter_operator.templates import template_of
from shunter_operator.values import (
    Action,
    Delete,
    Desired,
    Environment,
    Event,
    Manifest,
    Observed,
    SetFinalizer,
    SetInService,
    SetStatus,
    Why,
)

PROFILE_REMOVED = Why("ProfileRemoved", "its profile is taken out of the pool")
POOL_DELETED = Why("PoolDeleted", "the pool is deleted")
SERVING_EVERY = timedelta(seconds=10)
ORPHAN_FINALIZER = "orphan"  # `kubectl delete --cascade=orphan`: what the pool owns is to stay


def plan(
    desired: Desired, observed: Observed, environment: Environment, now: datetime
) -> list[Action]:
    """Actions in the order in which they are to be carried out."""
    at = Situation(desired, observed, environment, now)
    counts: dict[str, Count] = {}
    if desired.deleted_at is not None:
        actions = list(_let_go(at))
    else:
        actions = [] if FINALIZER in observed.finalizers else [SetFinalizer(True)]
        if desired.conflict is None and unsupported(desired.pool, environment) is None:
            counts = spill.wanted(desired, observed, now)
            actions += _serve(at, counts)
        else:
            actions += let_pass(observed.pods, observed.nodes)
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


def _serve(at: Situation, counts: dict[str, Count]) -> Iterator[Action]:
    pool, observed, environment = at.desired.pool, at.observed, at.environment
    for manifest in manifests_of(at.desired, environment):
        yield from applied(manifest, observed)
    leaving = find_evictions(at, sum(count.own for count in counts.values()))
    yield from leave(at, leaving)
    for profile in pool.profiles:
        yield from serve_profile(at, profile, counts[profile.name], leaving)
    yield from _orphans(at)
    if old := engine_files.outdated(pool, observed):
        made = (template_of(at, profile) for profile in pool.profiles)
        yield from engine_files.discard(old, observed, [template_digest(t) for t in made])
    if not environment.deletion_cost:
        yield from _in_service(observed)


def _in_service(observed: Observed) -> Iterator[Action]:
    for pod in observed.pods:
        if pod.gated is not None and not pod.deleting and pod.gated == pod.drained:
            yield SetInService(pod.ref, not pod.drained)


def _orphans(at: Situation) -> Iterator[Action]:
    """Deployments of profiles that are no more: emptied, then deleted."""
    profiles = {p.name for p in at.desired.pool.profiles}
    for ref in sorted(at.observed.objects):
        if ref.kind != "Deployment":
            continue
        profile = profile_of(ref, at.observed.objects[ref])
        if profile in profiles:
            continue
        yield from draining.empty_all(at, profile, PROFILE_REMOVED)
        if not draining.busy(at, profile):
            yield Delete(ref)
            yield Event("ProfileRemoved", f"{ref.name} is empty and goes")


def _let_go(at: Situation) -> Iterator[Action]:
    """The pool is deleted: drain everything, then release it to the garbage collector."""
    desired, observed = at.desired, at.observed
    if FINALIZER not in observed.finalizers:
        yield from let_pass(observed.pods, observed.nodes)  # others keep the pool
        return
    if ORPHAN_FINALIZER in observed.finalizers:
        budgets = (ref for ref in observed.objects if ref.kind == "PodDisruptionBudget")
        yield from map(Delete, budgets)  # only an operator opens them; the pods serve on
        yield SetFinalizer(False)
        return
    if desired.namespace_ends:
        yield SetFinalizer(False)  # its pods end whatever we do, and so may we
        return
    profiles = {p.profile for p in observed.pods}
    for profile in sorted(profiles):
        yield from draining.empty_all(at, profile, POOL_DELETED)
    assert desired.deleted_at is not None
    late = (at.now - desired.deleted_at).total_seconds() >= at.timeout_s
    if late or not any(draining.busy(at, profile) for profile in profiles):
        yield SetFinalizer(False)


def profile_of(ref: Ref, live: Manifest) -> str:
    return str((live["metadata"].get("labels") or {}).get(LABEL_PROFILE, ref.name))
