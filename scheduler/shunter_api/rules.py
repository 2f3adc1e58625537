"""From a request to pools and an SLO class: the routing rules, compiled once per configuration."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy, Rule, SloClass, WeightedPool, When
from shunter_api.tenants import Tenant

DEFAULT_CLASS = "standard"
DEFAULT_PRIORITY = 50
_STANDARD = SloClass(name=DEFAULT_CLASS, priority=DEFAULT_PRIORITY)


class Resolution(Struct, frozen=True, gc=False):
    """Where a request may go. `rule` is empty where none matched and the model name decided."""

    pools: tuple[str, ...]  # in order of trial
    slo_class: SloClass
    rule: str
    policy: RoutingPolicy | None  # gives dispatch and admission; None: their defaults


class RouteTable:
    """Resolves requests of one configuration."""

    def __init__(self, policies: Iterable[RoutingPolicy], pools: Iterable[ModelPool]) -> None:
        self._policies = in_order(policies)
        self._pools = {pool.name: pool for pool in pools}
        self._by_model: dict[str, str] = {}
        for pool in self._pools.values():
            for name in pool.model_names:
                self._by_model.setdefault(name, pool.name)
        self._classes: dict[tuple[str, str | None, str], SloClass] = {}
        self._rules = [(policy, rule) for policy in self._policies for rule in policy.spec.rules]
        self.rule_models = frozenset(
            model for _, rule in self._rules if rule.when for model in rule.when.models
        )
        self.tenants: dict[str, Tenant] = {}  # of the first policy that names them
        for policy in self._policies:
            for tenant in policy.spec.tenants:
                self.tenants.setdefault(tenant.name, tenant)
        self.rule_headers = frozenset(
            header for _, rule in self._rules if rule.when for header in rule.when.headers
        )

    @property
    def has_rules(self) -> bool:
        """Without any only the model's name counts."""
        return bool(self._rules)

    def resolve(
        self,
        *,
        model: str,
        headers: Mapping[str, str],
        tenant: str,
        prompt_tokens: int,
        draw: float,
    ) -> Resolution | None:
        """The first rule that matches, else the pool of that model name; None: unknown model.

        `headers` has lower-case names; `draw` in [0, 1) picks among weighted pools.
        """
        own_pool = self._by_model.get(model)
        if own_pool is None and model not in self.rule_models:
            return None
        for policy, rule in self._rules:
            if rule.when and not _holds(rule.when, model, headers, tenant, prompt_tokens):
                continue
            pools = _order_of_trial(rule, own_pool, draw)
            if pools:
                slo_class = self._class_of(policy, rule.slo_class, pools[0])
                return Resolution(pools, slo_class, rule.name, policy)
        if own_pool is None:
            return None
        default = self._policies[0] if self._policies else None
        return Resolution((own_pool,), self._class_of(default, None, own_pool), "", default)

    def targets(self, model: str) -> tuple[str, ...]:
        """Every pool that the rules may give a model name to that no pool has as its own, in order
        of name; pools that do not exist are left out."""
        found: set[str] = set()
        for _, rule in self._rules:
            when = rule.when
            if when and when.models and model not in when.models:
                continue
            found.update(target.pool for target in rule.route)
            found.update(rule.fallback if rule.route else ())
            if rule.route and not (when and (when.headers or when.tenants or when.prompt_tokens)):
                break  # it always holds: no later rule is reached
        return tuple(sorted(found & self._pools.keys()))

    def slo_class(self, name: str, policy: RoutingPolicy | None = None) -> SloClass | None:
        """The class of that name: of `policy` if it has it, else of the first policy that does."""
        for candidate in (policy, *self._policies):
            if candidate and (found := candidate.slo_class(name)):
                return found
        return None

    def _class_of(self, policy: RoutingPolicy | None, name: str | None, pool: str) -> SloClass:
        """Kept once made: there are at most as many as rules times pools."""
        key = (policy.metadata.key if policy else "", name, pool)
        found = self._classes.get(key)
        if found is None:
            found = self._classes[key] = self._make_class(policy, name, pool)
        return found

    def _make_class(self, policy: RoutingPolicy | None, name: str | None, pool: str) -> SloClass:
        """A rule's class overrides the pool's SLO; without one the pool's SLO makes `standard`."""
        if name is not None and (named := self.slo_class(name, policy)):
            return named
        standard = self.slo_class(DEFAULT_CLASS, policy) or _STANDARD
        owner = self._pools.get(pool)
        return SloClass.model_construct(
            name=DEFAULT_CLASS,
            priority=standard.priority,
            ttft_s=(owner.slo.ttft_s if owner else None) or standard.ttft_s,
            tpot_s=(owner.slo.tpot_s if owner else None) or standard.tpot_s,
            deadline_s=standard.deadline_s,
        )


def in_order(policies: Iterable[RoutingPolicy]) -> tuple[RoutingPolicy, ...]:
    """Highest `spec.priority` first, then the older, then by name."""
    return tuple(sorted(policies, key=lambda p: (-p.spec.priority, *p.metadata.age_order)))


def _holds(
    when: When, model: str, headers: Mapping[str, str], tenant: str, prompt_tokens: int
) -> bool:
    return (
        (not when.models or model in when.models)
        and (not when.tenants or tenant in when.tenants)
        and (when.prompt_tokens is None or prompt_tokens > when.prompt_tokens.over)
        and all(headers.get(name) == value for name, value in when.headers.items())
    )


def _order_of_trial(rule: Rule, own_pool: str | None, draw: float) -> tuple[str, ...]:
    """The drawn pool, the rule's other pools by weight, then its fallbacks; each once."""
    if rule.route:
        drawn = _draw(rule.route, draw)
        others = sorted(
            (t for t in rule.route if t.weight and t.pool != drawn), key=lambda t: -t.weight
        )
        first = (drawn, *(target.pool for target in others))
    else:
        first = (own_pool,) if own_pool else ()
    return tuple(dict.fromkeys((*first, *rule.fallback))) if first else ()


def _draw(route: tuple[WeightedPool, ...], draw: float) -> str:
    rest = draw * sum(target.weight for target in route)
    for target in route:
        rest -= target.weight
        if rest < 0:
            return target.pool
    return max(route, key=lambda target: target.weight).pool
