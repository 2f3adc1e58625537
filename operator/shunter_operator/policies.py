"""What a RoutingPolicy's status says, and which policy is in force. Pure."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from shunter_api.routingpolicy import RoutingPolicy, Rule, When
from shunter_api.rules import DEFAULT_CLASS, in_order
from shunter_api.status import Condition, ConditionType, PolicyStatus


def in_force(policies: Iterable[RoutingPolicy]) -> str | None:
    """The policy that gives dispatch and admission: the highest priority, then the oldest."""
    ordered = in_order(policies)
    return ordered[0].name if ordered else None


def policy_status(
    trouble: tuple[str, str] | None, before: PolicyStatus, generation: int, now: datetime
) -> PolicyStatus:
    """`trouble` is a reason and a message; None where there is none."""
    reason, message = trouble or ("AsExpected", "every rule leads to a pool that exists")
    verdicts: tuple[tuple[ConditionType, bool], ...] = (
        ("Ready", trouble is None),
        ("Degraded", trouble is not None),
    )
    old = {c.type: c for c in before.conditions}
    conditions = []
    for kind, holds in verdicts:
        status = "True" if holds else "False"
        was = old.get(kind)
        since = was.last_transition_time if was is not None and was.status == status else None
        conditions.append(
            Condition(
                type=kind,
                status="True" if holds else "False",
                observed_generation=generation,
                last_transition_time=since or now.replace(microsecond=0),
                reason=reason,
                message=message,
            )
        )
    return PolicyStatus(observed_generation=generation, conditions=tuple(conditions))


def missing_references(
    policy: RoutingPolicy, pools: Collection[str], policies: Iterable[RoutingPolicy]
) -> tuple[str, str] | None:
    """Reason and message where a rule names a pool or a class that is not there (yet); a class may
    be of any policy."""
    missing = [f"{place}: there is no pool {name!r}" for place, name in _named(policy)
               if name not in pools]  # fmt: skip
    classes = {DEFAULT_CLASS} | {known.name for other in policies for known in other.spec.classes}
    for index, rule in enumerate(policy.spec.rules):
        if rule.slo_class is not None and rule.slo_class not in classes:
            missing.append(f"spec.rules[{index}].class: there is no class {rule.slo_class!r}")
    return ("PolicyRefNotFound", "; ".join(missing[:8])) if missing else None


def unreached(policy: RoutingPolicy, policies: Iterable[RoutingPolicy]) -> tuple[str, str] | None:
    """Reason and message where every request of a rule is taken by a rule of a policy that is asked
    before this one, or that one names a tenant too."""
    earlier: list[tuple[RoutingPolicy, Rule]] = []
    tenants: dict[str, str] = {}
    for other in in_order(policies):
        if other.metadata.key == policy.metadata.key:
            break
        earlier += ((other, rule) for rule in other.spec.rules if rule.route)
        for tenant in other.spec.tenants:
            tenants.setdefault(tenant.name, other.metadata.key)
    told = [
        f"spec.tenants[{index}] does not count: policy {tenants[tenant.name]!r} has {tenant.name!r}"
        for index, tenant in enumerate(policy.spec.tenants)
        if tenant.name in tenants
    ]
    for index, rule in enumerate(policy.spec.rules):
        first = next(((p, r) for p, r in earlier if _takes_all_of(r.when, rule.when)), None)
        if first is not None:
            by = f"rule {first[1].name!r} of policy {first[0].metadata.key!r}"
            told.append(f"spec.rules[{index}] is never reached: {by} comes first")
    return ("ConflictingPolicy", "; ".join(told[:8])) if told else None


def _takes_all_of(first: When | None, later: When | None) -> bool:
    """Whether each request that `later` is for fulfils `first` too."""
    if first is None:
        return True
    if later is None:
        return False
    return (
        _covers(first.models, later.models)
        and _covers(first.tenants, later.tenants)
        and first.headers.items() <= later.headers.items()
        and (
            first.prompt_tokens is None
            or (
                later.prompt_tokens is not None
                and first.prompt_tokens.over <= later.prompt_tokens.over
            )
        )
    )


def _covers(first: Collection[str], later: Collection[str]) -> bool:
    """An empty collection is for all."""
    return not first or (bool(later) and set(later) <= set(first))


def _named(policy: RoutingPolicy) -> Iterator[tuple[str, str]]:
    """Every pool that a rule names, and where."""
    for index, rule in enumerate(policy.spec.rules):
        at = f"spec.rules[{index}]"
        for number, target in enumerate(rule.route):
            yield f"{at}.route[{number}].pool", target.pool
        for number, name in enumerate(rule.fallback):
            yield f"{at}.fallback[{number}]", name
