"""What a pool's status says. Pure: the same pods at the same time give the same status."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from shunter_api.profile import Profile
from shunter_api.status import (
    PoolStatus,
    ProfilePhase,
    ProfileStatus,
    Serving,
)
from shunter_operator.conditions import Facts, conditions_of, is_leaving
from shunter_operator.diagnose import Cause, cause_of, refused, worst
from shunter_operator.engines import unsupported
from shunter_operator.names import Ref, deployment_name, selector
from shunter_operator.scaled import reclaimed_why
from shunter_operator.scaling import Count
from shunter_operator.scheduler_view import PoolLoad
from shunter_operator.stages import starting
from shunter_operator.values import Desired, Environment, Manifest, Observed, Pod


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
        conditions=conditions_of(facts, before, now),
    )


def _facts(
    desired: Desired,
    observed: Observed,
    environment: Environment,
    counts: Mapping[str, Count],
) -> Facts:
    profiles = tuple(_profiles(desired, observed, counts))
    blocked = _blocked(desired, environment)
    causes = [Cause(p.reason, p.message or "", p.phase == "Failed") for p in profiles if p.reason]
    return Facts(desired, observed, counts, profiles, blocked, blocked or worst(causes))


def _blocked(desired: Desired, environment: Environment) -> Cause | None:
    found = desired.conflict or unsupported(desired.pool, environment)
    return Cause(*found) if found else None


def _profiles(
    desired: Desired, observed: Observed, counts: Mapping[str, Count]
) -> Iterable[ProfileStatus]:
    """Those of the pool in its order, then removed ones that still have pods."""
    known = [p.name for p in desired.pool.profiles]
    roles = {p.name: p.role for p in desired.pool.profiles}
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
            role=roles.get(name, "Any"),
            desired_replicas=count.total,
            replicas=len(pods),
            ready_replicas=sum(p.ready and not p.deleting for p in pods),
            unschedulable_replicas=sum(p.unschedulable_since is not None for p in pods),
            draining_replicas=sum(is_leaving(p) for p in pods),
            phase=_phase(pods, count.total, cause),
            starting=starting(pods),
            reason=cause.reason if cause else None,
            message=(cause.message or cause.reason) if cause else None,
        )


def _given(desired: Desired, profile: str, count: Count) -> Cause | None:
    """To a pool of a higher priority."""
    why = reclaimed_why(desired, profile, count)
    return Cause(why.reason, why.detail, fatal=False) if why is not None else None


def _refusal(deployment: Manifest | None) -> Cause | None:
    return refused(deployment) if deployment is not None else None


def _phase(pods: list[Pod], wanted: int, cause: Cause | None) -> ProfilePhase:
    serving = sum(p.ready and not is_leaving(p) for p in pods)
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
