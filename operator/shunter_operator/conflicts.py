"""Which pool a model name, or the name of an object, belongs to: the older one's. Pure."""

from collections.abc import Iterable, Iterator

from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path
from shunter_operator.names import deployment_name, service_name


def conflict_of(pool: ModelPool, others: Iterable[ModelPool]) -> tuple[str, str] | None:
    """Reason and message why `pool` may not serve. `others` may hold the pool itself."""
    models, objects = frozenset(pool.model_names), _objects(pool)
    mine = pool.metadata.age_order
    older = (other for other in others if other.metadata.age_order < mine)
    rivals = [o for o in older if models.intersection(o.model_names) or objects & _objects(o)]
    if not rivals:
        return None
    rival = min(rivals, key=lambda other: other.metadata.age_order)
    if shared := sorted(models.intersection(rival.model_names)):
        return "ConflictingModel", (
            f"model name {shared[0]!r} belongs to the older pool {rival.metadata.key}; "
            "give spec.model.name and spec.model.aliases other names"
        )
    kind, name = min(objects & _objects(rival))
    return "ConflictingName", (
        f"{kind} {name} belongs to the older pool {rival.metadata.key}; "
        "give the pool or its profile another name"
    )


def names_taken(pool: ModelPool, others: Iterable[ModelPool]) -> Iterator[tuple[Path, str]]:
    """Field and reason where an object of `pool` would have the name of another pool's object."""
    owners = {name: other for other in others for name in _objects(other)}
    at = pool.metadata.namespace
    places: list[tuple[Path, tuple[str, str]]] = [
        (("metadata", "name"), ("Service", f"{at}/{service_name(pool.name)}"))
    ]
    for index, profile in enumerate(pool.profiles):
        name = deployment_name(pool.name, profile.name)
        places.append((("spec", "profiles", index, "name"), ("Deployment", f"{at}/{name}")))
    for path, (kind, name) in places:
        if owner := owners.get((kind, name)):
            yield (
                path,
                (
                    f"{kind} {name} belongs to pool {owner.metadata.key}; "
                    "give the pool or its profile another name"
                ),
            )


def _objects(pool: ModelPool) -> frozenset[tuple[str, str]]:
    """Kind and namespace/name of what is made for a pool: `a-b` and `c` make the same Deployment
    as `a` and `b-c`."""
    at = pool.metadata.namespace
    deployments = (f"{at}/{deployment_name(pool.name, p.name)}" for p in pool.profiles)
    service = ("Service", f"{at}/{service_name(pool.name)}")
    return frozenset({service, *(("Deployment", name) for name in deployments)})
