"""What a pool's status says. Pure: the same pods at the same time give the same status."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from shunter_api.modelpool import Profile
from shunter_api.status import (
    Condition,
    ConditionType,
    PoolStatus,
    ProfilePhase,
    ProfileStatus,
    Serving,
)
from shunter_operator.autoscaler import Verdict, at_zero, autoscaler
from shunter_operator.diagnose import Cause, cause_of, refused, worst
from shunter_operator.engines import unsupported
from shunter_operator.names import Ref, deployment_name, selector
from shunter_operator.scaled import reclaimed_why
from shunter_operator.scaling import Count
from shunter_operator.stages import starting, starting_text
from shunter_operator.values import Desired, Environment, Manifest, Observed, Pod, PoolLoad


@dataclass(frozen=True, slots=True)
class _Facts:
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


def status_of(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    counts: Mapping[str, Count],
    now: datetime,
) -> PoolStatus:
    """`counts` are what the plan wants; empty where the pool is deleted or blocked."""
    facts = _facts(desired, observed, environment, counts)
    pool, before = desired.pool, observed.status
    return PoolStatus(
        observed_generation=desired.generation,
        model=pool.model_names[0],
        desired_replicas=facts.wanted,
        replicas=sum(p.replicas for p in facts.profiles),
        ready_replicas=facts.ready,
        selector=selector(pool.name),
        endpoint=environment.endpoint or None,
        gpu_mix=_gpu_mix(desired, observed),
        cost_per_hour=_cost_per_hour(desired, observed),
        policy=desired.policy,
        profiles=facts.profiles,
        serving=_serving(observed, before),
        conditions=_stamped(facts, before, now),
    )


def _facts(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    counts: Mapping[str, Count],
) -> _Facts:
    profiles = tuple(_profiles(desired, observed, counts))
    blocked = _blocked(desired, environment)
    causes = [Cause(p.reason, p.message or "", p.phase == "Failed") for p in profiles if p.reason]
    return _Facts(desired, observed, counts, profiles, blocked, blocked or worst(causes))


def _blocked(desired: Desired, environment: Environment) -> Cause | None:
    found = desired.conflict or unsupported(desired.pool, environment)
    return Cause(*found) if found else None


def _profiles(
    desired: Desired, observed: Observed, counts: Mapping[str, Count]
) -> Iterable[ProfileStatus]:
    """Those of the pool in its order, then removed ones that still have pods."""
    known = [p.name for p in desired.pool.profiles]
    removed = sorted({p.profile for p in observed.pods if p.profile} - set(known))
    for name in (*known, *removed):
        pods = [p for p in observed.pods if p.profile == name]
        count = counts.get(name, Count(0))
        ref = Ref("Deployment", desired.key.namespace, deployment_name(desired.key.name, name))
        cause = worst(
            [
                *map(cause_of, pods),
                _refusal(observed.objects.get(ref)),
                _given(desired, name, count),
            ]
        )
        yield ProfileStatus(
            name=name,
            desired_replicas=count.total,
            replicas=len(pods),
            ready_replicas=sum(p.ready and not p.deleting for p in pods),
            unschedulable_replicas=sum(p.unschedulable_since is not None for p in pods),
            draining_replicas=sum(_leaving(p) for p in pods),
            phase=_phase(pods, count.total, cause),
            starting=starting(pods),
            reason=cause.reason if cause else None,
            message=(cause.message or cause.reason) if cause else None,
        )


def _given(desired: Desired, profile: str, count: Count) -> Cause | None:
    """To a pool of a higher priority."""
    why = reclaimed_why(desired, profile) if count.given else None
    return Cause(why.reason, why.detail, fatal=False) if why is not None else None


def _refusal(deployment: Manifest | None) -> Cause | None:
    return refused(deployment) if deployment is not None else None


def _leaving(pod: Pod) -> bool:
    return pod.drain_since is not None or (pod.deleting and pod.ready)


def _phase(pods: list[Pod], wanted: int, cause: Cause | None) -> ProfilePhase:
    serving = sum(p.ready and not _leaving(p) for p in pods)
    if cause is not None and cause.fatal:
        return "Failed"
    if wanted and serving >= wanted:
        return "Ready"
    if wanted:
        return next((s.phase for s in starting(pods)), "Scheduling")
    return "Draining" if pods else "Idle"


def _gpu_mix(desired: Desired, observed: Observed) -> str | None:
    """The ready instances by accelerator, in the order of the profiles."""
    mix: dict[str, int] = {}
    for profile in desired.pool.profiles:
        count = sum(_serves(pod, profile) for pod in observed.pods)
        if count:
            gpus = count * profile.tensor_parallel
            mix[profile.accelerator] = mix.get(profile.accelerator, 0) + gpus
    return "+".join(f"{count}x{name}" for name, count in mix.items()) or None


def _serves(pod: Pod, profile: Profile) -> bool:
    return pod.profile == profile.name and pod.ready and not pod.deleting


def _cost_per_hour(desired: Desired, observed: Observed) -> Decimal | None:
    """Of the pods that hold a node's accelerators. None where no profile has a price."""
    prices = {p.name: p.cost_per_hour for p in desired.pool.profiles}
    if not any(prices.values()):
        return None
    return sum(
        (prices.get(p.profile, Decimal(0)) for p in observed.pods if p.scheduled), Decimal(0)
    )


def _serving(observed: Observed, before: PoolStatus) -> Serving | None:
    """As before while the scheduler does not answer."""
    load = observed.scheduler.pool if observed.scheduler else None
    return _figures(load) if load is not None else before.serving


def _figures(load: PoolLoad) -> Serving:
    """Rounded to two figures, so that only what an owner would notice is written."""
    return Serving(
        ttft_p95=_rounded(load.ttft_p95_s) or None,
        slo_attainment=Decimal(f"{100 * load.slo_attainment:.1f}"),
        queued=int(_rounded(load.waiting)),
        running=int(_rounded(load.running)),
        tokens_per_second=int(_rounded(load.output_tokens_per_s)),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _stamped(facts: _Facts, before: PoolStatus, now: datetime) -> tuple[Condition, ...]:
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


def _conditions(facts: _Facts, now: datetime) -> Iterable[Condition]:
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


def _condition(kind: ConditionType, verdict: Verdict, facts: _Facts, now: datetime) -> Condition:
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


def _ready(facts: _Facts) -> Verdict:
    if facts.desired.deleted_at is not None:
        return False, "Deleting", "the pool is deleted and lets its requests finish elsewhere"
    if facts.ready:
        return True, "Serving", f"{facts.ready} of {facts.wanted} instances serve"
    if facts.cause is not None:
        return False, facts.cause.reason, facts.cause.message
    if not facts.wanted:
        return False, "ScaledToZero", at_zero(facts.desired)
    return False, "Loading", f"0 of {facts.wanted} instances serve so far{facts.on_the_way}"


def _progressing(facts: _Facts) -> Verdict:
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


def _degraded(facts: _Facts) -> Verdict:
    if facts.cause is not None:
        return True, facts.cause.reason, facts.cause.message
    return False, "AsExpected", "nothing is wrong"


def _slo_met(facts: _Facts) -> Verdict:
    load = facts.observed.scheduler.pool if facts.observed.scheduler else None
    if load is None:
        return None, "MetricMissing", "the scheduler does not tell"
    target = float(facts.desired.pool.slo.attainment)
    if load.slo_attainment >= target:
        return True, "TargetMet", "requests meet their targets"
    return False, "TargetMissed", f"fewer than {100 * target:g} % of requests met their targets"


def _spilled(facts: _Facts) -> Verdict:
    spilled = {name: c.spilled for name, c in facts.counts.items() if c.spilled}
    if not spilled:
        return False, "PreferredProfilesServe", "no profile stands in for another"
    why = next((p for p in facts.profiles if p.unschedulable_replicas), None)
    where = ", ".join(f"{count} on {name}" for name, count in spilled.items())
    if why is None:
        return True, "PreferredNotSettled", f"{where}, until preferred profiles are settled"
    return True, why.reason or "Unschedulable", f"{where}, since {why.name}: {why.message}"


def _draining(facts: _Facts) -> Verdict:
    """The reason that leaves the least time is told first."""
    leaving = {p.name: _drain_reason(p, facts.observed) for p in facts.observed.pods if _leaving(p)}
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
