"""Emptying pods before they go, and taking them back. Pure.

A pod is marked, the scheduler is asked to move its requests, and once nothing runs there any more,
or its time is up, it is marked as drained: it is the one that may go.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from shunter_operator import scaling
from shunter_operator.values import (
    Action,
    Desired,
    Drain,
    Environment,
    Event,
    InstanceLoad,
    MarkDrained,
    MarkVictim,
    Observed,
    Pod,
    Undrain,
    Unmark,
    Why,
)


def goes_first(pod: Pod, environment: Environment) -> bool:
    """Whether a smaller Deployment deletes this pod before those that serve."""
    return not pod.ready or (pod.drained and environment.deletion_cost)


def empty_victim(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    pod: Pod,
    why: Why,
    now: datetime,
) -> Iterator[Action]:
    """From its mark to the mark that it is empty; nothing where it goes first as it is."""
    if goes_first(pod, environment) or pod.drained:
        return
    yield from empty(desired, observed, pod, why, now)
    if scaling.emptied(pod, loads_of(observed), now, timeout_s(desired)):
        yield MarkDrained(pod.ref)


def empty(
    desired: Desired, observed: Observed, pod: Pod, why: Why, now: datetime
) -> Iterator[Action]:
    """Marks the pod, and asks for its drain as long as the scheduler does not do it."""
    if pod.drain_since is None:
        yield MarkVictim(pod.ref, now, why.reason)
        yield Event("Draining", f"{pod.name}: {why.detail}; its requests move to other instances")
    load = (loads_of(observed) or {}).get(pod.name)
    if load is not None and load.state not in ("draining", "drained"):
        passed = (now - pod.drain_since).total_seconds() if pod.drain_since else 0.0
        yield Drain(pod.name, max(1.0, timeout_s(desired) - passed))


def empty_all(
    desired: Desired, observed: Observed, profile: str, why: Why, now: datetime
) -> Iterator[Action]:
    for pod in observed.pods:
        if pod.profile == profile and pod.ready and not pod.deleting:
            yield from empty(desired, observed, pod, why, now)


def busy(desired: Desired, observed: Observed, profile: str, now: datetime) -> bool:
    """Whether requests still run on pods of the profile, and may."""
    loads, limit_s = loads_of(observed), timeout_s(desired)
    return any(
        p.profile == profile
        and p.ready
        and not p.deleting
        and not scaling.emptied(p, loads, now, limit_s)
        for p in observed.pods
    )


def keep(pods: Iterable[Pod]) -> Iterator[Action]:
    """Takes back into service what was about to go and is needed again."""
    for pod in pods:
        if pod.drain_since is not None or pod.drained:
            yield Undrain(pod.name)
            yield Unmark(pod.ref)
            yield Event("DrainCancelled", f"{pod.name} is needed again")
        elif pod.leave_since is not None:
            yield Unmark(pod.ref)


def loads_of(observed: Observed) -> Mapping[str, InstanceLoad] | None:
    return observed.scheduler.instances if observed.scheduler is not None else None


def timeout_s(desired: Desired) -> float:
    return desired.pool.migration.drain_timeout_s
