"""SLO rescue: a request misses its target where it is, and may meet it elsewhere."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.view import Case, Trigger, View

LOOKED_AT = 4


def _cases(view: View) -> Iterator[Case]:
    yield from _slow(view)
    yield from _stuck(view)


def _slow(view: View) -> Iterator[Case]:
    """The step takes longer than the tightest target there: those who will miss theirs."""
    fleet = view.fleet
    beyond = fleet.beyond_s()
    if beyond is None:
        return
    for source in view.most(beyond):
        step_s = float(fleet.step_s[source])
        if not view.traffic.may_give(source):
            continue
        late = [entry for entry in view.on(source) if _lateness_s(entry, step_s, view.now) > 0]
        late.sort(key=lambda e: (-e.rank, -left_to_generate(e), e.request_id))
        if late:
            yield Case(source, late[:LOOKED_AT], rescue=True)


def _lateness_s(entry: Entry, step_s: float, now: float) -> float:
    """Of the last token, against the target for the whole answer."""
    target_s, first_at = entry.slo_class.tpot_s, entry.trail.first_token_at
    if target_s is None or first_at is None or not entry.started:
        return 0.0
    spent_s = now - first_at - entry.output_tokens * target_s
    return spent_s + left_to_generate(entry) * (step_s - target_s)


def _stuck(view: View) -> Iterator[Case]:
    """Prefills wait for each other: the last to come starts again elsewhere, if it starts sooner
    there. The first is being computed already."""
    fleet = view.fleet
    several = fleet.prefilling > 1
    if view.pool.queue or not several.any():
        return
    for source in view.most(np.where(several, fleet.queue_s, 0.0)):
        if not view.traffic.may_give(source):
            continue
        waiting = [entry for entry in view.on(source) if not entry.started]
        if len(waiting) > 1:
            yield Case(source, waiting[-1:])


RESCUE = Trigger("slo-rescue", _cases)
