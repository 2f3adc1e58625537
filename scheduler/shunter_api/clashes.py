"""Names that lead to one pool only: the first that has one keeps it. Pure.

Clients name models and rules name pools, whatever their namespaces.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The pool at `index` of those given has a name, by the field at `path`."""

    index: int
    path: Path


@dataclass(frozen=True, slots=True)
class Clash:
    """`name`, a pool's or a model's, belongs to `first` already."""

    kind: Literal["pool", "model"]
    name: str
    first: Owner
    second: Owner


def clashes(pools: Iterable[ModelPool]) -> Iterator[Clash]:
    """In the order given, which says who comes first; a pool's own name before its models'."""
    named: dict[str, Owner] = {}
    models: dict[str, tuple[str, Owner]] = {}
    for index, pool in enumerate(pools):
        mine = Owner(index, ("metadata", "name"))
        first = named.setdefault(pool.name, mine)
        if first is not mine:
            yield Clash("pool", pool.name, first, mine)
        for name in pool.model_names:
            mine = Owner(index, _path_of_model_name(pool, name))
            owner, first = models.setdefault(name, (pool.name, mine))
            if owner != pool.name:
                yield Clash("model", name, first, mine)


def _path_of_model_name(pool: ModelPool, name: str) -> Path:
    model = pool.spec.model
    if name in model.aliases:
        return ("spec", "model", "aliases", model.aliases.index(name))
    return ("spec", "model", "name") if model.name else ("metadata", "name")
