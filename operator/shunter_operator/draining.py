"""Emptying pods before they go, and taking them back. Pure.

A pod is marked, the scheduler is asked to move its requests, and once nothing runs there any more,
or its time is up, it is marked as drained: it is the one that may go.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from shunter_operator import scaling
from shunter_operator.scheduler_view import InstanceLoad
from shunter_operator.values import (
    Action,
    Desired,
    Drain,
    Environment,
    Event,
    MarkDrained,
    MarkVictim,
    Observed,
    Pod,
    Undrain,
    Unmark,
    Why,
)


@dataclass(frozen=True, slots=True)
class Situation:
    """One pool at one time: what is wanted, what is there, and on which cluster."""

    desired: Desired
    observed: Observed
    environment: Environment
    now: datetime

    @property
    def loads(self) -> Mapping[str, InstanceLoad] | None:
        """By instance; None where the scheduler does not answer."""
        scheduler = self.observed.scheduler
        return scheduler.instances if scheduler is not None else None

    @property
    def timeout_s(self) -> float:
        return self.desired.pool.migration.drain_timeout_s


def goes_first(pod: Pod, environment: Environment) -> bool:
    """Whether a smaller Deployment deletes this pod before those that serve."""
    return not pod.ready or (pod.drained and environment.deletion_cost)


def empty_victim(at: Situation, pod: Pod, why: Why) -> Iterator[Action]:
    """From its mark to the mark that it is empty; nothing where it goes first as it is."""
    if goes_first(pod, at.environment) or pod.drained:
        return
    yield from empty(at, pod, why)
    if scaling.emptied(pod, at.loads, at.now, at.timeout_s):
        yield MarkDrained(pod.ref)


def empty(at: Situation, pod: Pod, why: Why) -> Iterator[Action]:
    """Marks the pod, and asks for its drain as long as the scheduler does not do it."""
    if pod.drain_since is None:
        yield MarkVictim(pod.ref, at.now, why.reason)
        yield Event("Draining", f"{pod.name}: {why.detail}; its requests move to other instances")
    load = (at.loads or {}).get(pod.name)
    if load is not None and load.state not in ("draining", "drained"):
        passed = (at.now - pod.drain_since).total_seconds() if pod.drain_since else 0.0
        yield Drain(pod.name, max(1.0, at.timeout_s - passed))


def empty_all(at: Situation, profile: str, why: Why) -> Iterator[Action]:
    for pod in at.observed.pods:
        if pod.profile == profile and pod.ready and not pod.deleting:
            yield from empty(at, pod, why)


def busy(at: Situation, profile: str) -> bool:
    """Whether requests still run on pods of the profile, and may."""
    return any(
        p.profile == profile
        and p.ready
        and not p.deleting
        and not scaling.emptied(p, at.loads, at.now, at.timeout_s)
        for p in at.observed.pods
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
