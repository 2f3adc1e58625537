"""Why each request is where it is. Recording is cheap: what explains a decision is kept as it was,
and candidates with their terms are made only when somebody asks."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from shunter_scheduler.core.probing import MIN_PREFILL_SHARE
from shunter_scheduler.costmodel.correction import Correction
from shunter_scheduler.domain.decisions import Reject
from shunter_scheduler.domain.explanation import Candidate, DecisionRecord, Explanation, Moved
from shunter_scheduler.policies.ask import Ask, why_excluded
from shunter_scheduler.policies.first_token import until_first_token
from shunter_scheduler.policies.policy import DispatchPolicy
from shunter_scheduler.policies.rows import InstanceRow, Seen

MAX_CANDIDATES = 8
MAX_DECISIONS = 32  # kept per request: the first ones and the last
# Standard deviations. Of a normal distribution 95 % are below; of times to first token, whose upper
# tail is longer, 92 % in a simulated fleet on the Azure trace.
NINE_IN_TEN = 1.645
NOT_CONSIDERED = "not considered by the policy"

Kind = Literal["dispatch", "hold", "reject", "move", "suspend", "resume"]


class Ranking(Struct, eq=False, gc=False):
    """The best instances at a pick, as they were."""

    policy: DispatchPolicy
    ask: Ask
    seen: Seen
    barred: Mapping[int, str]  # slots that the request may not have, and why
    eligible: int
    live: int
    unranked_because: str = NOT_CONSIDERED  # of who is eligible and has no score

    def _why_excluded(self, row: InstanceRow) -> str:
        return self.barred.get(row.slot) or why_excluded(row, self.ask)

    def candidates(self) -> list[Candidate]:
        """Best first, those that were excluded last."""
        made = []
        policy = self.policy
        for row, cached, score, parts in self.seen.rows():
            because = self._why_excluded(row)
            if not because and score == float("inf"):
                because = self.unranked_because
            hit = int(cached) if policy.uses_prefix else 0
            terms = () if because else policy.named(row, self.ask, hit, parts)
            total = sum(value for _, value in terms)
            made.append((bool(because), score, row.slot, _candidate(row, total, terms, because)))
        return [candidate for *_, candidate in sorted(made, key=lambda m: m[:3])]

    def ttft_s(self, instance: str) -> tuple[float, float] | None:
        """Predicted there, and an upper bound; None where it is not among the best."""
        for row, cached, score, _ in self.seen.rows():
            if row.name == instance and score < float("inf"):
                hit = int(cached) if self.policy.uses_prefix else 0
                queue_s, prefill_s, memory_s = until_first_token(row, self.ask, hit)
                ttft_s = queue_s + prefill_s + memory_s
                share = max(MIN_PREFILL_SHARE, prefill_s / ttft_s) if ttft_s else 1.0
                error = row.rates.ttft_error / math.sqrt(share)  # waits are known less well
                spread_s = error * (ttft_s + Correction.OVERHEAD_S)
                return ttft_s, ttft_s + NINE_IN_TEN * spread_s
        return None


def _candidate(
    row: InstanceRow, total: float, terms: tuple[tuple[str, float], ...], because: str
) -> Candidate:
    return Candidate(row.name, row.profile, total, terms, because)


class Weighing(Struct, frozen=True, gc=False):
    """Going against staying, best first."""

    policy: str
    unit: str
    candidates: tuple[Candidate, ...]


class Trace(Struct, eq=False, gc=False):
    """One decision."""

    kind: Kind
    epoch: int
    at: float
    winner: str
    reason: str
    queued_s: float
    cached_tokens: int
    ranking: Ranking | None
    weighed: Weighing | None = None  # instead of a ranking
    slack_s: float | None = None
    moved: Moved | None = None

    def record(self) -> DecisionRecord:
        ranking = self.ranking
        weighed = self.weighed or NOTHING_WEIGHED
        candidates = ranking.candidates() if ranking else list(weighed.candidates)
        ttft_s, at_most_s = (ranking and ranking.ttft_s(self.winner)) or (None, None)
        others = [
            c.instance for c in candidates if c.instance != self.winner and not c.excluded_because
        ]
        return DecisionRecord(
            kind=self.kind,
            epoch=self.epoch,
            at=self.at,
            policy=ranking.policy.name if ranking else weighed.policy,
            score_unit=ranking.policy.unit if ranking else weighed.unit,
            winner=self.winner,
            runner_up=others[0] if others else "",
            candidates=tuple(candidates[:MAX_CANDIDATES]),
            candidates_total=ranking.live if ranking else len(candidates),
            excluded_total=ranking.live - ranking.eligible if ranking else 0,
            reason=self.reason,
            queued_s=self.queued_s,
            cached_tokens=self.cached_tokens,
            slack_s=self.slack_s,
            ttft_s=ttft_s,
            ttft_at_most_s=at_most_s,
            moved=self.moved,
        )


NOTHING_WEIGHED = Weighing("", "", ())


class Trail(Struct, eq=False, gc=False):
    """All decisions about one request."""

    request_id: str
    model: str
    pool: str
    slo_class: str
    rule: str
    prompt_tokens: int
    output_tokens: int = 0
    state: Literal["waiting", "running", "moving", "finished", "failed", "cancelled"] = "waiting"
    older: tuple[Trace, ...] = ()
    last: Trace | None = None
    ended_epoch: int = -1  # highest epoch that is over
    failures: int = 0
    failed_on: str = ""  # instance of the last failure
    resumes: int = 0  # failures after which it was placed again
    first_token_at: float | None = None  # of the whole request, not of one engine call
    met_ttft: bool = True
    revision: str | None = None  # of the model that answers; None: not known
    rejected: Reject | None = None  # how it ended, where it was turned away
    tenant: str = ""
    level: int = 0  # rank of its class
    workflow: str = ""
    stage: str = ""
    expected_output_tokens: float = 0.0  # when it came first
    cached_tokens: int | None = None  # as the engine reported with the first token
    counted: bool = False  # among the requests of its tenant

    @property
    def traces(self) -> tuple[Trace, ...]:
        return self.older if self.last is None else (*self.older, self.last)

    def add(self, trace: Trace) -> None:
        if self.last is not None:
            older = (*self.older, self.last)
            if len(older) >= MAX_DECISIONS:
                older = older[: MAX_DECISIONS // 2] + older[MAX_DECISIONS // 2 + 1 :]
            self.older = older
        self.last = trace

    def note_moved(self, instance: str, moved: Moved) -> None:
        """Of the last move that was ordered there."""
        for trace in reversed(self.traces):
            if trace.kind == "move" and trace.winner == instance:
                trace.moved = moved
                return

    def explanation(self, output_tokens: int) -> Explanation:
        return Explanation(
            request_id=self.request_id,
            model=self.model,
            pool=self.pool,
            slo_class=self.slo_class,
            rule=self.rule,
            state=self.state,
            prompt_tokens=self.prompt_tokens,
            output_tokens=output_tokens,
            decisions=tuple(trace.record() for trace in self.traces),
            tenant=self.tenant,
            level=self.level,
            workflow=self.workflow,
            stage=self.stage,
            revision=self.revision or "",
            expected_output_tokens=self.expected_output_tokens,
            cached_tokens=self.cached_tokens,
        )


class EndedTrails:
    """The trails of ended requests, the oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._trails: OrderedDict[str, Trail] = OrderedDict()

    def __len__(self) -> int:
        return len(self._trails)

    def keep(self, trail: Trail) -> None:
        trails, request_id = self._trails, trail.request_id
        trails.pop(request_id, None)  # an older place in the order
        trails[request_id] = trail
        if len(trails) > self._limit:
            trails.popitem(last=False)

    def get(self, request_id: str) -> Trail | None:
        return self._trails.get(request_id)

    def take_back(self, request_id: str) -> Trail | None:
        """Of a request that failed on one engine and comes again."""
        return self._trails.pop(request_id, None)
