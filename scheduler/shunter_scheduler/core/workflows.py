"""Deadlines of workflows, split over their stages.

A stage's share of the time that is left is that of its own mean duration in those of all stages
that are left, itself included (HexGen-Text2SQL: SLO_stage = (SLO_total - spent) * a(s) /
(a(s) + sum of a(s')), a(s) the mean over hardware). Durations are from placement to end, learned
per model and stage, for each profile by itself: a(s) is the mean over the profiles that were seen.
A stage that was never seen counts as the mean of those that were.
"""

from collections import OrderedDict

from shunter_scheduler.domain.request import Request

MAX_WORKFLOWS = 65_536
MAX_STAGES = 4096
FIRM_AT = 8  # observations, from which one that is far off is cut
FAR = 4.0  # times the mean, or one part in so many of it
SLOWEST_AT = 64  # observations, from which one more counts no less


class StageDurations:
    """Seconds of the stages of each model; the ones not used longest are forgotten."""

    __slots__ = ("_elsewhere", "_means", "_stages")

    def __init__(self) -> None:
        self._stages: OrderedDict[tuple[str, str], dict[str, tuple[int, float]]] = OrderedDict()
        self._means: dict[str, tuple[int, float]] = {}  # of each model: stages, sum of their a(s)
        self._elsewhere: dict[str, str] = {}  # stage -> the model that had it last

    def observe(self, model: str, stage: str, profile: str, seconds: float) -> None:
        key = (model, stage)
        before = self._duration(key)
        by_profile = self._stages.setdefault(key, {})
        self._stages.move_to_end(key)
        by_profile[profile] = _learn(by_profile.get(profile, (0, 0.0)), seconds)
        self._elsewhere[stage] = model
        self._count(model, before, self._duration(key))
        if len(self._stages) > MAX_STAGES:
            oldest = next(iter(self._stages))
            self._count(oldest[0], self._duration(oldest), None)
            del self._stages[oldest]
            if self._elsewhere.get(oldest[1]) == oldest[0]:
                del self._elsewhere[oldest[1]]

    def seconds(self, model: str, stage: str) -> float:
        """a(s), of another model where this one has not had the stage; 0 where nothing is known."""
        known = self._duration((model, stage))
        if known is None and stage in self._elsewhere:
            known = self._duration((self._elsewhere[stage], stage))
        if known is not None:
            return known
        stages, total = self._means.get(model, (0, 0.0))
        return total / stages if stages else 0.0

    def _duration(self, key: tuple[str, str]) -> float | None:
        by_profile = self._stages.get(key)
        if not by_profile:
            return None
        return sum(mean for _, mean in by_profile.values()) / len(by_profile)

    def _count(self, model: str, before: float | None, after: float | None) -> None:
        stages, total = self._means.get(model, (0, 0.0))
        stages += (after is not None) - (before is not None)
        total += (after or 0.0) - (before or 0.0)
        if stages:
            self._means[model] = (stages, total)
        else:
            self._means.pop(model, None)


def _learn(known: tuple[int, float], seconds: float) -> tuple[int, float]:
    """A running mean that forgets slowly; outliers count as far as they may lie."""
    count, mean = known
    if count >= FIRM_AT:
        seconds = min(max(seconds, mean / FAR), mean * FAR)
    count = min(count + 1, SLOWEST_AT)
    return count, mean + (seconds - mean) / count


class Workflows:
    """Which workflows there are, and until when; the ones heard of longest ago are forgotten."""

    __slots__ = ("_deadlines", "durations")

    def __init__(self) -> None:
        self.durations = StageDurations()
        self._deadlines: OrderedDict[tuple[str, str], float] = OrderedDict()

    def deadline_at(self, request: Request) -> float | None:
        """The earliest deadline that was given for its workflow, by this request or one before; of
        a request without a workflow its own."""
        given, deadlines = request.workflow_deadline_at, self._deadlines
        if not request.workflow:
            return given
        key = (request.tenant, request.workflow)
        known = deadlines.get(key)
        if known is not None:
            deadlines.move_to_end(key)
            given = known if given is None else min(known, given)
        if given is not None:
            deadlines[key] = given
            if len(deadlines) > MAX_WORKFLOWS:
                deadlines.popitem(last=False)
        return given

    def stage_deadline_at(self, request: Request) -> float | None:
        """When this stage has had its share of the time that the workflow has left."""
        deadline_at = self.deadline_at(request)
        if deadline_at is None:
            return None
        left_s = max(0.0, deadline_at - request.arrived_at)
        return request.arrived_at + left_s * self._share(request)

    def _share(self, request: Request) -> float:
        left = request.stages_left
        if not left:
            return 1.0
        durations, model = self.durations, request.model
        own = durations.seconds(model, request.stage)
        rest = sum(durations.seconds(model, stage) for stage in left)
        if own + rest <= 0.0:
            return 1.0 / (1 + len(left))
        return own / (own + rest)
