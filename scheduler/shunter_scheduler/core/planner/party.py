"""Requests that may leave one instance, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.fleet import Floats
from shunter_scheduler.core.planner.view import Case, View

HORIZON_S = 10.0  # at most; what lies further ahead is too uncertain


@dataclass(frozen=True, slots=True)
class Party:
    """Requests that may leave one instance, one a row: arrays of one column."""

    entries: Sequence[Entry]
    context: Floats  # tokens, prompt included
    left: Floats  # output tokens to come
    soon: Floats  # of these, while differences of speed last
    later: Floats  # of these, within `HORIZON_S`
    counts: Floats  # of these, while its own targets are looked at
    target_s: Floats  # of its class, per token; inf: none, or its first token came too late
    spent_s: Floats  # since its first token
    made: Floats  # tokens since then
    wait_s: float  # until the first token at the source; 0: they have started
    ttft_left_s: Floats  # until the TTFT target is missed; inf: none
    cached: Floats  # of the context, in the prefix cache where it waits

    @property
    def mean_context(self) -> Floats:
        return self.context + 0.5 * self.left


def party(view: View, case: Case) -> Party:
    """Of all entries of the case: they have started to answer, or none has."""
    entries, source = case.entries, case.source
    step_s = float(view.fleet.step_s[source])
    soon, later = min(view.horizon_s, HORIZON_S) / step_s, HORIZON_S / step_s
    columns = np.array([_row(entry, soon, later, view.now) for entry in entries]).T[:, :, None]
    wait_s = 0.0 if entries[0].started else float(view.fleet.queue_s[source])
    context, left, near, far, target_s, spent_s, made, ttft_left_s, cached = columns
    counts = left if case.rescue else near
    return Party(
        entries,
        context,
        left,
        near,
        far,
        counts,
        target_s,
        spent_s,
        made,
        wait_s,
        ttft_left_s,
        cached,
    )


def _row(entry: Entry, soon: float, later: float, now: float) -> tuple[float, ...]:
    slo_class, left, tokens = entry.slo_class, left_to_generate(entry), entry.output_tokens
    target_s = ttft_left_s = np.inf
    spent_s, first_at = 0.0, entry.trail.first_token_at
    if first_at is not None and slo_class.tpot_s is not None and entry.trail.met_ttft:
        target_s, spent_s = slo_class.tpot_s, now - first_at
    if not entry.started and slo_class.ttft_s is not None:
        ttft_left_s = entry.request.arrived_at + slo_class.ttft_s - now
    within = entry.lengths.within
    return (
        entry.context_tokens,
        left,
        min(left, within(tokens, soon)),
        min(left, within(tokens, later)),
        target_s,
        spent_s,
        tokens,
        ttft_left_s,
        entry.cached_tokens,
    )
