"""Which PriorityClass engine pods have. Pure.

The classes never preempt: where nodes have room for some pods only, those of a higher class come
first. GPUs that are in use change hands by reclaiming, which moves requests before it ends a pod.
"""

from types import MappingProxyType

from shunter_api.modelpool import ModelPool
from shunter_operator.values import Environment

# From which `scaling.priority` on; highest first.
LEVELS = MappingProxyType({"high": 200, "standard": 100, "low": 0})


def level_of(priority: int) -> str:
    return next(level for level, least in LEVELS.items() if priority >= least)


def priority_class(pool: ModelPool, environment: Environment) -> str:
    """Empty where the operator was told of none."""
    return environment.priority_classes.get(level_of(pool.spec.scaling.priority), "")
