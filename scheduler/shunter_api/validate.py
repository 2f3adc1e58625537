"""What must hold between resources, and the one way from files to a usable configuration."""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shunter_api.clashes import clashes
from shunter_api.instances import InstanceEntry, InstanceList
from shunter_api.load import Documents, Located, load_documents, merge
from shunter_api.modelpool import ModelPool
from shunter_api.positions import Path
from shunter_api.problems import ConfigurationError, Problem
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.rules import DEFAULT_CLASS

MAX_NAMED = 20  # names that a message lists

# Field and reason of each thing in a pool that cannot work.
PoolCheck = Callable[[ModelPool], Iterable[tuple[Path, str]]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a configuration may refer to, beyond its own resources."""

    pool_check: PoolCheck = lambda pool: ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """Resources that agree with each other."""

    pools: tuple[ModelPool, ...]
    policies: tuple[RoutingPolicy, ...]
    instances: tuple[InstanceEntry, ...]


def load_configuration(
    files: Iterable[tuple[str, str]],
    known: Known = Known(),
) -> Configuration:
    """From (origin, text) of each file. Raises `ConfigurationError` with every problem."""
    documents = merge(load_documents(text, origin) for origin, text in files)
    problems = check(documents, known)
    if problems:
        raise ConfigurationError(problems)
    return Configuration(
        tuple(pool.value for pool in documents.pools),
        tuple(policy.value for policy in documents.policies),
        tuple(entry for listed in documents.instance_lists for entry in listed.value.items),
    )


def check(documents: Documents, known: Known = Known()) -> tuple[Problem, ...]:
    """Every problem, those of reading included, by file and line."""
    problems = (*documents.problems, *check_each(documents, known), *check_between(documents))
    return tuple(sorted(set(problems)))


def check_each(documents: Documents, known: Known = Known()) -> Iterator[Problem]:
    """What is wrong with a resource whatever else there is."""
    for pool in documents.pools:
        for path, why in known.pool_check(pool.value):
            yield pool.problem(path, why)


def check_between(documents: Documents) -> Iterator[Problem]:
    """Where resources do not agree with each other. Of two that clash the later one is blamed."""
    yield from _policy_names(documents.policies)
    yield from _tenants(documents.policies)
    yield from _pool_names(documents.pools)
    # A pool that could not be read is not known either: naming it is no second mistake.
    pools = None if documents.problems else {p.value.name: p.value for p in documents.pools}
    classes = {c.name for policy in documents.policies for c in policy.value.spec.classes}
    for policy in documents.policies:
        yield from _rules(policy, pools, classes | {DEFAULT_CLASS})
    yield from _instances(documents.instance_lists, pools)


def _policy_names(policies: Iterable[Located[RoutingPolicy]]) -> Iterator[Problem]:
    """Nothing names a policy: two namespaces may have one of a name."""
    seen: dict[str, Problem] = {}
    for policy in policies:
        here = policy.problem(("metadata", "name"), "")
        first = seen.setdefault(policy.value.metadata.key, here)
        if first is not here:
            yield policy.problem(("metadata", "name"), _twice(policy.value, first.place))


def _tenants(policies: Iterable[Located[RoutingPolicy]]) -> Iterator[Problem]:
    """One name in one policy is refused as it is read."""
    seen: dict[str, Problem] = {}
    for policy in policies:
        for index, tenant in enumerate(policy.value.spec.tenants):
            at: Path = ("spec", "tenants", index, "name")
            here = policy.problem(at, "")
            first = seen.setdefault(tenant.name, here)
            if first is not here:
                message = f"tenant {tenant.name!r} is in a policy already ({first.place})"
                yield policy.problem(at, f"{message}; a tenant is named by one policy only")


def _pool_names(pools: Sequence[Located[ModelPool]]) -> Iterator[Problem]:
    for clash in clashes(pool.value for pool in pools):
        first, second = pools[clash.first.index], pools[clash.second.index]
        place = first.problem(clash.first.path, "").place
        if clash.kind == "pool":
            message = _twice(second.value, place)
        else:
            message = (
                f"model name {clash.name!r} belongs to pool {first.value.name!r} already "
                f"({place}); a model name leads to one pool only"
            )
        yield second.problem(clash.second.path, message)


def _twice(value: ModelPool | RoutingPolicy, place: str) -> str:
    return f"a {value.kind} called {value.name!r} is already in {place}; rename or remove one"


def _rules(
    policy: Located[RoutingPolicy], pools: dict[str, ModelPool] | None, classes: set[str]
) -> Iterator[Problem]:
    for index, rule in enumerate(policy.value.spec.rules):
        at: Path = ("spec", "rules", index)
        if rule.slo_class is not None and rule.slo_class not in classes:
            yield policy.problem((*at, "class"), unknown_name("class", rule.slo_class, classes))
        if pools is None:
            continue
        targets: list[tuple[Path, str]] = [
            ((*at, "route", n, "pool"), target.pool) for n, target in enumerate(rule.route)
        ]
        targets += [((*at, "fallback", n), name) for n, name in enumerate(rule.fallback)]
        for where, name in targets:
            if name not in pools:
                yield policy.problem(where, unknown_name("pool", name, pools))


def _instances(
    lists: Iterable[Located[InstanceList]], pools: dict[str, ModelPool] | None
) -> Iterator[Problem]:
    names: dict[str, Problem] = {}
    addresses: dict[str, Problem] = {}
    for listed in lists:
        for index, entry in enumerate(listed.value.items):
            at: Path = ("items", index)
            for field, seen, value in (
                ("name", names, entry.name),
                ("address", addresses, entry.address),
            ):
                here = listed.problem((*at, field), "")
                first = seen.setdefault(value, here)
                if first is not here:
                    message = f"{value!r} is taken already ({first.place})"
                    yield listed.problem((*at, field), message)
            if pools is None:
                continue
            pool = pools.get(entry.pool)
            if pool is None:
                yield listed.problem((*at, "pool"), unknown_name("pool", entry.pool, pools))
            elif entry.profile not in (known := [p.name for p in pool.profiles]):
                yield listed.problem(
                    (*at, "profile"), unknown_name("profile", entry.profile, known)
                )


def unknown_name(what: str, name: str, known: Collection[str]) -> str:
    """A message with the name that may be meant, else with those that there are."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"there is no {what} {name!r}; did you mean {near[0]!r}?"
    shown = sorted(known)[:MAX_NAMED]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"there is no {what} {name!r}; known: {', '.join(shown) or 'none'}{more}"
