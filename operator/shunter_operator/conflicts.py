"""Which pool a model name belongs to: the older one's. Pure."""

from collections.abc import Iterable

from shunter_api.modelpool import ModelPool


def conflict_of(pool: ModelPool, others: Iterable[ModelPool]) -> str:
    """Why `pool` may not serve; empty where it may. `others` may hold the pool itself."""
    for other in sorted(others, key=lambda p: p.metadata.age_order):
        if other.metadata.key == pool.metadata.key:
            return ""
        if other.metadata.age_order > pool.metadata.age_order:
            return ""
        shared = [name for name in pool.model_names if name in other.model_names]
        if shared:
            return (
                f"model name {shared[0]!r} belongs to the older pool {other.metadata.key}; "
                "give spec.model.name and spec.model.aliases other names"
            )
    return ""
