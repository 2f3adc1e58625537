"""All reasons for which the planner moves requests, the most urgent first."""

from shunter_scheduler.core.planner.consolidation import CONSOLIDATION
from shunter_scheduler.core.planner.defragmentation import DEFRAGMENTATION
from shunter_scheduler.core.planner.headroom import HEADROOM
from shunter_scheduler.core.planner.imbalance import IMBALANCE
from shunter_scheduler.core.planner.preemption import PREEMPTION
from shunter_scheduler.core.planner.preference import PREFERRED_PROFILE
from shunter_scheduler.core.planner.rescue import RESCUE
from shunter_scheduler.core.planner.view import Trigger

TRIGGERS: tuple[Trigger, ...] = (
    DEFRAGMENTATION,
    HEADROOM,
    RESCUE,
    PREEMPTION,
    IMBALANCE,
    PREFERRED_PROFILE,
    CONSOLIDATION,
)
