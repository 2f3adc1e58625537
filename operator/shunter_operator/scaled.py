"""Kubernetes Events of a profile that grows or shrinks, with the why. Pure."""

from collections.abc import Iterator

from shunter_api.profile import Profile
from shunter_operator.diagnose import unschedulable
from shunter_operator.names import Ref, deployment_name
from shunter_operator.reclaimed import reclaim_of
from shunter_operator.scaling import Count
from shunter_operator.values import Desired, Event, Observed, Reclaim, Why


def scaled(
    desired: Desired, observed: Observed, profile: Profile, there: Count | None, count: Count
) -> Iterator[Event]:
    """`there` is what the Deployment has, `count` what it is about to have."""
    yield from _reclaimed(desired, observed, profile)
    before = there or Count(0)
    if count.spilled > before.spilled:
        more = count.spilled - before.spilled
        why = _spill_reason(desired, observed)
        yield Event("SpilledOver", f"{more} more on {profile.name}: {why}".rstrip(": "), True)
    elif count.spilled < before.spilled:
        fewer = before.spilled - count.spilled
        yield Event("Returned", f"{fewer} fewer on {profile.name}: preferred profiles serve again")
    elif there is not None and count.own != there.own:
        reason = "ScaledUp" if count.own > there.own else "ScaledDown"
        given = reclaimed_why(desired, profile.name, count) if reason == "ScaledDown" else None
        why = given.detail if given is not None else _scale_reason(desired, observed, profile)
        yield Event(reason, f"{profile.name}: {there.own} to {count.own}: {why}")


def reclaimed_why(desired: Desired, profile: str, count: Count) -> Why | None:
    """Why the profile's pods go, where another pool gets their GPUs: a limit that it would not
    reach anyway is no reason."""
    reclaim = desired.reclaims.get(profile) if count.given else None
    return Why("Reclaimed", reclaim.detail) if reclaim is not None else None


def _reclaimed(desired: Desired, observed: Observed, profile: Profile) -> Iterator[Event]:
    now, before = desired.reclaims.get(profile.name), _before(desired, observed, profile)
    if now is not None and not now.taken:
        now = None
    if now is not None and (before is None or (before.limit, before.by) != (now.limit, now.by)):
        told = f"{profile.name}: at most {now.limit} for now; {now.detail}"
        yield Event("Reclaimed", told, True)
    elif now is None and before is not None:
        yield Event("ReclaimEnded", f"{profile.name}: pool {before.by} is short no more")


def _before(desired: Desired, observed: Observed, profile: Profile) -> Reclaim | None:
    name = deployment_name(desired.key.name, profile.name)
    live = observed.objects.get(Ref("Deployment", desired.key.namespace, name))
    return reclaim_of(live) if live is not None else None


def _spill_reason(desired: Desired, observed: Observed) -> str:
    said = (
        unschedulable(p.unschedulable_message)[1] for p in observed.pods if p.unschedulable_since
    )
    return next(said, "") or next((reclaim.detail for reclaim in desired.reclaims.values()), "")


def _scale_reason(desired: Desired, observed: Observed, profile: Profile) -> str:
    advice = observed.scheduler.advice.get(profile.name) if observed.scheduler else None
    manual = desired.pool.spec.scaling.mode == "Manual" or advice is None
    return "as the resource says" if manual or advice is None else advice.reason
