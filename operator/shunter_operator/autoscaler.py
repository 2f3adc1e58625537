"""What a pool's status says of its scaling. Pure."""

from shunter_api.durations import duration_text
from shunter_operator import scaling
from shunter_operator.values import Desired, Observed

# Whether a condition holds (None: unknown), the reason, the message.
Verdict = tuple[bool | None, str, str]


def autoscaler(desired: Desired, observed: Observed) -> Verdict:
    """Whether the scheduler's advice is followed."""
    if desired.pool.spec.scaling.mode == "Manual":
        return False, "ManualMode", "spec.replicas decides"
    if observed.scheduler is None:
        return False, "MetricMissing", "the scheduler does not answer; nothing is scaled meanwhile"
    unknown = [p.name for p in desired.pool.profiles if p.name not in observed.scheduler.advice]
    if len(unknown) == len(desired.pool.profiles):
        return False, "MetricMissing", "the scheduler does not know this pool yet"
    if unknown:
        names = ", ".join(unknown)
        return False, "MetricMissing", f"the scheduler does not know {names} yet; the rest follows"
    if scaling.idle(desired, observed):
        return True, "ScaledToZero", at_zero(desired)
    return True, "AdviceFollowed", "the scheduler's advice is followed"


def at_zero(desired: Desired) -> str:
    """Why no instance is wanted, and what ends that."""
    from_zero = desired.pool.spec.scaling.from_zero
    if from_zero is None:
        return "no instance is wanted"
    after = duration_text(from_zero.after_s)
    return f"no request for {after}; the next one waits for an instance, which it starts"
