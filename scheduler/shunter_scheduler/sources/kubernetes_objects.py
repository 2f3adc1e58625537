"""Kubernetes objects to a configuration. Pure.

What is wrong with one object leaves that object out, with a reason, and never another one. An edit
that cannot be used leaves the object as it was before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shunter_api.load import Documents, Located, parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path, YamlDocument
from shunter_api.problems import ConfigurationError, Problem
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.validate import check
from shunter_scheduler.domain.cluster import Instance, Topology

LABEL_POOL = "shunter.dev/pool"
LABEL_PROFILE = "shunter.dev/profile"
LABEL_REVISION = "shunter.dev/revision"
ENGINE_PODS = f"app.kubernetes.io/managed-by=shunter,{LABEL_POOL},{LABEL_PROFILE}"
ENGINE_PORT = "http"
# Where the cluster knows no deletion costs the operator takes a drained pod out of service by this
# condition, so that it is the one that goes.
READINESS_GATE = "shunter.dev/in-service"

Object = Mapping[str, Any]
T = TypeVar("T", ModelPool, RoutingPolicy)
Check = Callable[[T], Iterable[tuple[Path, str]]]


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A resource and what is wrong with it; `value` is the last one that could be used."""

    uid: str
    generation: int
    value: T | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class EnginePod:
    """`address` is empty where the pod cannot be called, and `ready` says whether it should. One
    that is `terminating` still serves what runs there."""

    namespace: str
    name: str
    pool: str
    profile: str
    address: str
    ready: bool
    terminating: bool
    created: str  # as Kubernetes writes times, which sort as texts
    phase: str = ""  # how far one is that is not ready
    revision: str = ""  # of the model


@dataclass(frozen=True, slots=True)
class Cell:
    """All that one scheduler serves, as it agrees with itself."""

    pools: tuple[ModelPool, ...] = ()
    policies: tuple[RoutingPolicy, ...] = ()
    instances: tuple[Instance, ...] = ()
    leaving: tuple[str, ...] = ()  # names of instances
    starting: tuple[tuple[str, str], ...] = ()  # pool and phase
    problems: tuple[Problem, ...] = ()

    def topology(self, version: int) -> Topology:
        return Topology(
            version, self.pools, self.policies, self.instances, self.leaving, self.starting
        )


def read_resource(
    kind: type[T], value: Object, before: Reading[T] | None, checked: Check[T]
) -> Reading[T]:
    """The same `before` again where the spec has not changed since. `checked` finds what the
    schema cannot."""
    metadata = value["metadata"]
    uid, generation = str(metadata.get("uid", "")), int(metadata.get("generation", 0))
    if before is not None and (before.uid, before.generation) == (uid, generation) and generation:
        return before
    try:
        found = parse_object(value, _origin(kind, metadata["namespace"], metadata["name"]))
        assert isinstance(found, kind)
        problems = tuple(_located(found).problem(path, why) for path, why in checked(found))
    except ConfigurationError as error:
        found, problems = None, error.problems
    if not problems:
        return Reading(uid, generation, found)
    kept = before.value if before is not None and before.uid == uid else None
    effect = "the edit has no effect" if kept else f"this {kind.__name__} is left out"
    told = tuple(Problem(p.origin, 0, p.field, f"{p.message}; {effect}") for p in problems)
    return Reading(uid, generation, kept, told)


def read_pod(value: Object) -> EnginePod:
    metadata, status = value["metadata"], value.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    ready = conditions.get("Ready") == "True"
    drained = conditions.get(READINESS_GATE) == "False"
    return EnginePod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        pool=labels.get(LABEL_POOL, ""),
        profile=labels.get(LABEL_PROFILE, ""),
        revision=labels.get(LABEL_REVISION, ""),
        address=_address(value.get("spec") or {}, status.get("podIP") or ""),
        ready=ready,
        terminating=drained or "deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp") or "",
        phase="" if ready else _phase(value.get("spec") or {}, status),
    )


# From the furthest on its way to an instance.
PHASES = ("starting", "loading-weights", "scaling-up", "unschedulable")


def _phase(spec: Object, status: Object) -> str:
    """Of a pod that is not ready: one of `PHASES`."""
    if spec.get("nodeName"):
        inits = status.get("initContainerStatuses") or ()
        loads = any("running" in (one.get("state") or {}) for one in inits)
        return "loading-weights" if loads else "starting"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return "unschedulable"
    return "scaling-up"


def _address(spec: Object, host: str) -> str:
    ports = (
        port.get("containerPort")
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name") == ENGINE_PORT
    )
    port = next(ports, None)
    if not host or port is None:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def make_cell(
    pools: Iterable[Reading[ModelPool]],
    policies: Iterable[Reading[RoutingPolicy]],
    pods: Iterable[EnginePod],
) -> Cell:
    """Of two pools that cannot both be, the older serves. A rule that names a pool or a class that
    is not there (yet) stays, and is reported."""
    pools, policies = tuple(pools), tuple(policies)
    own = [problem for pool in pools for problem in pool.problems]
    own += [problem for policy in policies for problem in policy.problems]
    wanted = [_located(p.value) for p in pools if p.value is not None]
    wanted.sort(key=lambda located: located.value.metadata.age_order)
    clashes = check(Documents(pools=tuple(wanted)))
    blamed = {problem.origin for problem in clashes}
    serving = tuple(pool for pool in wanted if pool.document.origin not in blamed)
    rules = tuple(_located(p.value) for p in policies if p.value is not None)
    found = check(Documents(serving, rules))
    useless = {p.origin for p in found if not p.field.startswith("spec.rules")}
    kept = [rule.value for rule in rules if rule.document.origin not in useless]
    values = tuple(pool.value for pool in serving)
    pods, keys = tuple(pods), {p.metadata.key: p for p in values}
    instances, leaving, pod_problems = _instances(keys, pods)
    return Cell(
        pools=values,
        policies=tuple(sorted(kept, key=lambda policy: policy.metadata.age_order)),
        instances=instances,
        leaving=leaving,
        starting=_starting(keys, pods),
        problems=tuple(sorted({*own, *clashes, *found, *pod_problems})),
    )


def _instances(
    pools: Mapping[str, ModelPool], pods: Iterable[EnginePod]
) -> tuple[tuple[Instance, ...], tuple[str, ...], list[Problem]]:
    """The instances, the names of those that leave, and problems. Pods of a pool or profile that
    is not there are on their way out: no problem."""
    instances: dict[str, Instance] = {}
    leaving: list[str] = []
    problems: list[Problem] = []
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.namespace, pod.name)):
        pool = pools.get(f"{pod.namespace}/{pod.pool}")
        if not pod.ready or pool is None:
            continue
        if all(profile.name != pod.profile for profile in pool.profiles):
            continue
        origin = f"Pod {pod.namespace}/{pod.name}"
        if not pod.address:
            message = f"is Ready, but no container port is called {ENGINE_PORT}: it cannot serve"
            problems.append(Problem(origin, 0, "spec.containers", message))
        elif pod.name in instances:
            message = "an older pod of another namespace has this name; this one cannot serve"
            problems.append(Problem(origin, 0, "metadata.name", message))
        else:
            instances[pod.name] = Instance(
                pod.name, pool.name, pod.profile, pod.address, pool.engine_type, pod.revision
            )
            if pod.terminating:
                leaving.append(pod.name)
    in_order = tuple(instances[name] for name in sorted(instances))
    return in_order, tuple(sorted(leaving)), problems


def _starting(
    pools: Mapping[str, ModelPool], pods: Iterable[EnginePod]
) -> tuple[tuple[str, str], ...]:
    """Pools whose pods are all on their way, and how far the first of them is."""
    furthest: dict[str, int] = {}
    for pod in pods:
        pool = pools.get(f"{pod.namespace}/{pod.pool}")
        if pool is not None and not pod.terminating:
            at = -1 if pod.ready else PHASES.index(pod.phase)
            furthest[pool.name] = min(at, furthest.get(pool.name, at))
    return tuple(sorted((name, PHASES[at]) for name, at in furthest.items() if at >= 0))


def _located(value: T) -> Located[T]:
    metadata = value.metadata
    origin = _origin(type(value), metadata.namespace, metadata.name)
    return Located(value, YamlDocument(origin, None))


def _origin(kind: type[T], namespace: str, name: str) -> str:
    return f"{kind.__name__} {namespace}/{name}"
