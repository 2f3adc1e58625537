"""`Mirror` on the indices that kopf keeps from its watches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shunter_api.load import Documents, located, parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.problems import ConfigurationError
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.validate import Known, check_each
from shunter_operator.cluster import Body, PolicyRecord, PoolRecord
from shunter_operator.names import LABEL_POOL, PoolKey, Ref
from shunter_operator.values import Manifest, Node, Pod

NOTHING_MORE = Known()


@dataclass(frozen=True, slots=True)
class Owned:
    """An object of ours."""

    ref: Ref
    manifest: Manifest


class Watches:
    """Empty until `bind` hands over the indices, which kopf fills before any handler runs."""

    def __init__(self) -> None:
        self._pools: Mapping[PoolKey, Iterable[PoolRecord]] = {}
        self._pods: Mapping[PoolKey, Iterable[Pod]] = {}
        self._objects: Mapping[str, Mapping[PoolKey, Iterable[Owned]]] = {}
        self._policies: Mapping[Ref, Iterable[PolicyRecord]] = {}
        self._nodes: Mapping[str, Node] = {}

    def bind(
        self,
        pools: Mapping[PoolKey, Iterable[PoolRecord]],
        pods: Mapping[PoolKey, Iterable[Pod]],
        objects: Mapping[str, Mapping[PoolKey, Iterable[Owned]]],
        policies: Mapping[Ref, Iterable[PolicyRecord]],
    ) -> None:
        """`objects` by what they are."""
        self._pools, self._pods = pools, pods
        self._objects, self._policies = objects, policies

    def pool(self, key: PoolKey) -> PoolRecord | None:
        return next(iter(self._pools.get(key, ())), None)

    def pools(self) -> Iterable[PoolRecord]:
        return [record for records in self._pools.values() for record in records]

    def policies(self) -> Iterable[PolicyRecord]:
        return [record for records in self._policies.values() for record in records]

    def pods(self, key: PoolKey) -> Iterable[Pod]:
        return list(self._pods.get(key, ()))

    def objects(self, key: PoolKey) -> Mapping[Ref, Manifest]:
        return {
            owned.ref: owned.manifest
            for index in self._objects.values()
            for owned in index.get(key, ())
        }

    def nodes(self) -> Mapping[str, Node]:
        return self._nodes

    def set_nodes(self, leaving: Mapping[str, Node]) -> list[PoolKey]:
        """The pools that have pods on nodes of which something has changed."""
        before, self._nodes = self._nodes, dict(leaving)
        changed = {n for n in before.keys() | leaving.keys() if before.get(n) != leaving.get(n)}
        return [key for key, pods in self._pods.items() if any(p.node in changed for p in pods)]


def pool_record(body: Body, known: Known = NOTHING_MORE) -> PoolRecord:
    """`known`: what is asked beside the schema; admission asks the same, where there is any."""
    plain = without_managed_fields(body)
    try:
        pool = parse_object(plain)
    except ConfigurationError as error:
        return PoolRecord(plain, None, error.problems)
    assert isinstance(pool, ModelPool)
    problems = tuple(check_each(Documents(pools=(located(pool),)), known))
    return PoolRecord(plain, None if problems else pool, problems)


def policy_record(body: Body, known: Known = NOTHING_MORE) -> PolicyRecord:
    """As `pool_record`."""
    plain = without_managed_fields(body)
    try:
        policy = parse_object(plain)
    except ConfigurationError as error:
        return PolicyRecord(plain, None, error.problems)
    assert isinstance(policy, RoutingPolicy)
    problems = tuple(check_each(Documents(policies=(located(policy),)), known))
    return PolicyRecord(plain, None if problems else policy, problems)


def owned(body: Body, kind: str) -> Owned:
    """Lists leave `kind` out of their items."""
    metadata = body["metadata"]
    ref = Ref(kind, metadata["namespace"], metadata["name"])
    return Owned(ref, without_managed_fields(body))


def pool_key(body: Body) -> PoolKey | None:
    """Of the pool that an object belongs to; None where its label says of none."""
    metadata = body["metadata"]
    name = (metadata.get("labels") or {}).get(LABEL_POOL)
    return PoolKey(metadata["namespace"], name) if name else None


def without_managed_fields(body: Body) -> dict[str, Any]:
    """They are half of an object, and nothing here reads them."""
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    return {**dict(body), "metadata": metadata}
