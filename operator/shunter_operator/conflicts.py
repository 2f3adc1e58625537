"""Which pool a name belongs to, its own, a model's or an object's: the older one. Pure."""

from collections.abc import Iterable, Iterator

from shunter_api.clashes import Clash, clashes
from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path
from shunter_operator.names import deployment_name, service_name


def conflict_of(pool: ModelPool, others: Iterable[ModelPool]) -> tuple[str, str] | None:
    """Reason and message why `pool` may not serve. `others` may hold the pool itself. The
    scheduler leaves the same pools out, and knows those that are left by their names."""
    mine = pool.metadata.age_order
    older = sorted(
        (other for other in others if other.metadata.age_order < mine),
        key=lambda other: other.metadata.age_order,
    )
    for clash in clashes((*older, pool)):
        if clash.second.index == len(older):
            return _conflicting(clash, older[clash.first.index])
    objects = _objects(pool)
    for rival in older:
        if shared := objects & _objects(rival):
            kind, name = min(shared)
            return "ConflictingName", (
                f"{kind} {name} belongs to the older pool {rival.metadata.key}; "
                "give the pool or its profile another name"
            )
    return None


def _conflicting(clash: Clash, owner: ModelPool) -> tuple[str, str]:
    if clash.kind == "pool":
        return "ConflictingName", (
            f"the older pool {owner.metadata.key} has this name, and requests, rules and advice "
            "go by a pool's name whatever its namespace; make this pool anew with another name"
        )
    return "ConflictingModel", (
        f"model name {clash.name!r} belongs to the older pool {owner.metadata.key}; "
        "give spec.model.name and spec.model.aliases other names"
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
