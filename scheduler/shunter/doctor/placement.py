"""What engine pods ask of a node, by the very template that the operator makes for them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from shunter.doctor.facts import Object
from shunter_api.engine import EngineType
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.problems import ConfigurationError
from shunter_api.profile import Profile
from shunter_operator.manifests import pod_template
from shunter_operator.merge import quantity
from shunter_operator.values import Desired, Environment


@dataclass(frozen=True, slots=True)
class Wish:
    """Of one profile's pods. `requests` are in base units: cores, bytes, devices."""

    pool: str
    profile: str
    node_selector: Mapping[str, str]
    tolerations: tuple[Object, ...]
    requests: Mapping[str, Decimal]
    runtime_class: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """`by_pool` and `unreadable`, which says why, go by NAMESPACE/NAME."""

    by_pool: Mapping[str, tuple[Wish, ...]]
    unreadable: Mapping[str, str]


def wishes(pools: Iterable[Object]) -> Wishes:
    by_pool: dict[str, tuple[Wish, ...]] = {}
    unreadable: dict[str, str] = {}
    for body in pools:
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        try:
            pool = parse_object(body)
        except ConfigurationError as error:
            unreadable[key] = "; ".join(f"{p.field}: {p.message}" for p in error.problems)
            continue
        assert isinstance(pool, ModelPool)
        by_pool[key] = tuple(_wish(pool, profile) for profile in pool.profiles)
    return Wishes(by_pool, unreadable)


def _wish(pool: ModelPool, profile: Profile) -> Wish:
    # Which image it is makes no difference to where a pod may run.
    types: tuple[EngineType, ...] = ("vllm", "sglang", "llamacpp", "openai")
    environment = Environment(image="any", engine_images=dict.fromkeys(types, "any"))
    spec = pod_template(Desired(pool, uid=""), profile, environment)["spec"]
    return Wish(
        pool=pool.name,
        profile=profile.name,
        node_selector=spec.get("nodeSelector") or {},
        tolerations=tuple(spec.get("tolerations") or ()),
        requests=_requests(spec),
        runtime_class=spec.get("runtimeClassName") or "",
    )


def _requests(spec: Object) -> dict[str, Decimal]:
    """As Kubernetes counts: the containers' sum, or the largest init container where that is more;
    what is limited and not requested is requested to its limit."""
    total: dict[str, Decimal] = {}
    for container in spec["containers"]:
        for name, amount in _of_container(container):
            total[name] = total.get(name, Decimal(0)) + amount
    for container in spec.get("initContainers") or ():
        for name, amount in _of_container(container):
            total[name] = max(total.get(name, Decimal(0)), amount)
    return total


def _of_container(container: Object) -> Iterator[tuple[str, Decimal]]:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    for name, text in both.items():
        amount = quantity(str(text))
        if amount is not None:
            yield name, amount
