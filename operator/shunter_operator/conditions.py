"""The conditions of a pool: what holds, why, and since when. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from shunter_api.status import Condition, ConditionType, PoolStatus, ProfileStatus
from shunter_operator.autoscaler import Verdict, at_zero, autoscaler
from shunter_operator.diagnose import Cause
from shunter_operator.scaling import Count
from shunter_operator.stages import starting, starting_text
from shunter_operator.values import Desired, Observed, Pod


@dataclass(frozen=True, slots=True)
class Facts:
    """One pool at one time, counted once."""

    desired: Desired
    observed: Observed
    counts: Mapping[str, Count]
    profiles: tuple[ProfileStatus, ...]
    blocked: Cause | None  # the pool as a whole cannot be served
    cause: Cause | None  # the first thing to tell

    @property
    def wanted(self) -> int:
        return sum(p.desired_replicas for p in self.profiles)

    @property
    def ready(self) -> int:
        return sum(p.ready_replicas for p in self.profiles)

    @property
    def on_the_way(self) -> str:
        return starting_text(starting(self.observed.pods))

    @property
    def draining(self) -> int:
        return sum(p.draining_replicas for p in self.profiles)


def conditions_of(facts: Facts, before: PoolStatus, now: datetime) -> tuple[Condition, ...]:
    """`lastTransitionTime` moves only where `status` changes."""
    old = {c.type: c for c in before.conditions}
    return tuple(
        condition.model_copy(
            update={"last_transition_time": old[condition.type].last_transition_time}
        )
        if condition.type in old and old[condition.type].status == condition.status
        else condition
        for condition in _conditions(facts, now)
    )


def _conditions(facts: Facts, now: datetime) -> Iterable[Condition]:
    verdicts: tuple[tuple[ConditionType, Verdict], ...] = (
        ("Ready", _ready(facts)),
        ("Progressing", _progressing(facts)),
        ("Degraded", _degraded(facts)),
        ("AutoscalerActive", autoscaler(facts.desired, facts.observed)),
        ("SLOMet", _slo_met(facts)),
        ("SpilledOver", _spilled(facts)),
        ("Draining", _draining(facts)),
    )
    for kind, verdict in verdicts:
        yield _condition(kind, verdict, facts, now)


def _condition(kind: ConditionType, verdict: Verdict, facts: Facts, now: datetime) -> Condition:
    holds, reason, message = verdict
    return Condition(
        type=kind,
        status="Unknown" if holds is None else "True" if holds else "False",
        observed_generation=facts.desired.generation,
        last_transition_time=now.replace(microsecond=0),
        reason=reason,
        # Kubernetes 1.20 takes an empty text in a merge patch for null.
        message=message or reason,
    )


def _ready(facts: Facts) -> Verdict:
    if facts.desired.deleted_at is not None:
        return False, "Deleting", "the pool is deleted and lets its requests finish elsewhere"
    if facts.ready:
        return True, "Serving", f"{facts.ready} of {facts.wanted} instances serve"
    if facts.cause is not None:
        return False, facts.cause.reason, facts.cause.message
    if not facts.wanted:
        return False, "ScaledToZero", at_zero(facts.desired)
    return False, "Loading", f"0 of {facts.wanted} instances serve so far{facts.on_the_way}"


def _progressing(facts: Facts) -> Verdict:
    if facts.blocked is not None:
        return False, facts.blocked.reason, facts.blocked.message
    if facts.desired.deleted_at is not None or facts.draining:
        return True, "Draining", f"{facts.draining} instances are being emptied"
    settled = sum(p.replicas for p in facts.profiles) == facts.wanted == facts.ready
    if settled:
        return False, "Complete", "everything is as wanted"
    if facts.cause is not None:
        return not facts.cause.fatal, facts.cause.reason, facts.cause.message
    said = f"{facts.ready} of {facts.wanted} instances serve{facts.on_the_way}"
    return True, "InstancesStarting", said


def _degraded(facts: Facts) -> Verdict:
    if facts.cause is not None:
        return True, facts.cause.reason, facts.cause.message
    return False, "AsExpected", "nothing is wrong"


def _slo_met(facts: Facts) -> Verdict:
    load = facts.observed.scheduler.pool if facts.observed.scheduler else None
    if load is None:
        return None, "MetricMissing", "the scheduler does not tell"
    target = float(facts.desired.pool.slo.attainment)
    if load.slo_attainment >= target:
        return True, "TargetMet", "requests meet their targets"
    return False, "TargetMissed", f"fewer than {100 * target:g} % of requests met their targets"


def _spilled(facts: Facts) -> Verdict:
    spilled = {name: c.spilled for name, c in facts.counts.items() if c.spilled}
    if not spilled:
        return False, "PreferredProfilesServe", "no profile stands in for another"
    why = next((p for p in facts.profiles if p.unschedulable_replicas), None)
    where = ", ".join(f"{count} on {name}" for name, count in spilled.items())
    if why is None:
        return True, "PreferredNotSettled", f"{where}, until preferred profiles are settled"
    return True, why.reason or "Unschedulable", f"{where}, since {why.name}: {why.message}"


def _draining(facts: Facts) -> Verdict:
    """The reason that leaves the least time is told first."""
    leaving = {
        p.name: _drain_reason(p, facts.observed) for p in facts.observed.pods if is_leaving(p)
    }
    if not leaving:
        return False, "NothingLeaves", "no instance is being emptied"
    reason = min(leaving.values(), key=lambda r: (r != "SpotNotice", r != "NodeCordoned", r))
    told = ", ".join(f"{name} ({why})" for name, why in sorted(leaving.items())[:8])
    return True, reason, f"being emptied: {told}"


def _drain_reason(pod: Pod, observed: Observed) -> str:
    """A pod without our mark was deleted: by a rollout, where others are of a newer template."""
    if pod.drain_reason:
        return pod.drain_reason
    others = (p for p in observed.pods if p.profile == pod.profile and not p.deleting)
    return "Rollout" if any(p.template != pod.template for p in others) else "PodDeleted"


def is_leaving(pod: Pod) -> bool:
    return pod.drain_since is not None or (pod.deleting and pod.ready)


def refused_status(before: PoolStatus, generation: int, message: str, now: datetime) -> PoolStatus:
    """Of a resource that could not be read: what runs goes on, and the condition says so."""
    condition = Condition(
        type="Degraded",
        status="True",
        observed_generation=generation,
        last_transition_time=now.replace(microsecond=0),
        reason="InvalidSpec",
        message=message,
    )
    kept = tuple(c for c in before.conditions if c.type != "Degraded")
    degraded = next((c for c in before.conditions if c.type == "Degraded"), condition)
    if degraded.status == "True":
        changed = {"last_transition_time": degraded.last_transition_time}
        condition = condition.model_copy(update=changed)
    return before.model_copy(
        update={"observed_generation": generation, "conditions": (*kept, condition)}
    )
