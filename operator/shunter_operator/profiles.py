"""One profile of a pool: how many replicas its Deployment has, and which pods go first. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from shunter_api.profile import Profile
from shunter_operator import draining, evictions, rollout, scaling
from shunter_operator.draining import Situation, empty_victim, goes_first
from shunter_operator.evictions import Evictions
from shunter_operator.manifests import Scale, deployment, ref_of, template_digest
from shunter_operator.merge import differs
from shunter_operator.scaled import reclaimed_why, scaled
from shunter_operator.scaling import Count
from shunter_operator.templates import template_of
from shunter_operator.values import Action, Apply, Manifest, Observed, Pod, SetRole, Why

SCALE_DOWN = Why("ScaleDown", "fewer instances are wanted")


@dataclass(frozen=True, slots=True)
class _Pods:
    """`wanted` is with one more for each of the `leavers`, whose node is about to go; `replaced`
    are those that nobody needs to stand there any more. `there` is what the Deployment asks for."""

    alive: tuple[Pod, ...]
    leavers: tuple[Pod, ...]
    replaced: tuple[Pod, ...]
    wanted: Count
    there: Count | None

    @property
    def has(self) -> int:
        return self.there.total if self.there is not None else 0


def serve_profile(
    at: Situation, profile: Profile, count: Count, leaving: Evictions
) -> Iterator[Action]:
    """Grows at once; shrinks by as many pods as have been emptied."""
    pods = _pods_of(at, profile, count, leaving)
    chosen = _victims(at, pods)
    why = reclaimed_why(at.desired, profile.name, count) or SCALE_DOWN
    for pod in chosen:
        yield from empty_victim(at, pod, why)
    template = template_of(at, profile)
    making_room = _making_room(at, profile, template)
    if making_room is not None:
        yield from empty_victim(at, making_room, rollout.WHY)
    if len(pods.alive) <= pods.has:
        going = {p.name for p in (*chosen, *pods.leavers, making_room) if p is not None}
        yield from draining.keep(p for p in pods.alive if p.name not in going)
    replicas = _replicas(at, pods, chosen)
    shown = _attributed(pods, replicas)
    missing = 0
    if making_room is not None and goes_first(making_room, at.environment):
        missing = rollout.may_miss(pods.alive, template_digest(template), replicas)
    scale = Scale(replicas, shown.spilled, shown.surge, missing)
    yield from applied(deployment(at.desired, profile, template, scale), at.observed)
    yield from _tell_role(profile, pods.alive)
    if at.environment.watches_nodes:
        yield from evictions.labels(pods.alive, leaving, pods.replaced, at.environment)
    yield from scaled(at.desired, at.observed, profile, pods.there, shown)


def _tell_role(profile: Profile, alive: Iterable[Pod]) -> Iterator[Action]:
    """On pods that are there: a template that has it would start all of them anew."""
    role = "" if profile.role == "Any" else profile.role
    for pod in alive:
        if pod.role != role:
            yield SetRole(pod.ref, role)


def applied(manifest: Manifest, observed: Observed) -> Iterator[Action]:
    if differs(manifest, observed.objects.get(ref_of(manifest))):
        yield Apply(manifest)


def _pods_of(at: Situation, profile: Profile, count: Count, leaving: Evictions) -> _Pods:
    alive = tuple(p for p in at.observed.pods if p.profile == profile.name and not p.deleting)
    replaced = tuple(leaving.replaced(alive, count.total, at.environment))
    leavers = tuple(p for p in alive if p.name in leaving.leavers and p not in replaced)
    there = scaling.current(at.desired, at.observed, profile.name)
    return _Pods(alive, leavers, replaced, replace(count, surge=len(leavers)), there)


def _victims(at: Situation, pods: _Pods) -> list[Pod]:
    """What an earlier, smaller number has given up may still be there."""
    if pods.has <= pods.wanted.total:
        return []
    given_up = max(0, len(pods.alive) - pods.has)
    candidates = [p for p in pods.alive if p not in pods.leavers]
    return scaling.victims(candidates, pods.has - pods.wanted.total + given_up, at.loads)


def _replicas(at: Situation, pods: _Pods, chosen: list[Pod]) -> int:
    if pods.has <= pods.wanted.total:
        return pods.wanted.total
    gone = sum(goes_first(pod, at.environment) for pod in chosen)
    return max(pods.wanted.total, min(pods.has, len(pods.alive) - gone))


def _making_room(at: Situation, profile: Profile, template: Manifest) -> Pod | None:
    pods = [p for p in at.observed.pods if p.profile == profile.name]
    return rollout.next_to_go(at, pods, template_digest(template))


def _attributed(pods: _Pods, replicas: int) -> Count:
    """Whose the replicas are. Of pods that are on their way out, stand-ins are counted first, then
    replacements of pods that need none any more: as own ones `Auto` would keep them for a while."""
    count, there = pods.wanted, pods.there or Count(0)
    surplus = replicas - count.total
    spilled = min(surplus, max(0, there.spilled - count.spilled))
    surge = min(surplus - spilled, max(0, there.surge - count.surge))
    own = count.own + surplus - spilled - surge
    return replace(count, own=own, spilled=count.spilled + spilled, surge=count.surge + surge)
