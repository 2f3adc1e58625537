from collections import Counter
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.rules import Resolution, RouteTable, in_order
from shunter_api.testing import make_policy, make_pool

POOLS = (make_pool("chat", aliases=["default"]), make_pool("code"), make_pool("big"))


def go(
    *policies: RoutingPolicy,
    model: str = "chat",
    headers: dict[str, str] | None = None,
    tenant: str = "",
    prompt_tokens: int = 10,
    draw: float = 0.0,
    pools: tuple[ModelPool, ...] = POOLS,
) -> Resolution | None:
    return RouteTable(policies, pools).resolve(
        model=model,
        headers=headers or {},
        tenant=tenant,
        prompt_tokens=prompt_tokens,
        draw=draw,
    )


def pools_of(resolution: Resolution | None) -> tuple[str, ...]:
    assert resolution
    return resolution.pools


def test_without_rules_the_model_name_decides() -> None:
    assert pools_of(go(model="default")) == ("chat",)
    assert pools_of(go(model="code")) == ("code",)
    assert go(model="unknown") is None


def test_a_rule_without_when_matches_known_models_only() -> None:
    catch_all = make_policy(rules=[{"name": "all", "route": [{"pool": "big"}]}])
    assert pools_of(go(catch_all, model="code")) == ("big",)
    assert go(catch_all, model="unknown") is None


def test_a_rule_can_name_a_model_of_its_own() -> None:
    rule = {"name": "r", "when": {"models": ["auto"]}, "route": [{"pool": "big"}]}
    assert pools_of(go(make_policy(rules=[rule]), model="auto")) == ("big",)
    assert RouteTable([make_policy(rules=[rule])], POOLS).rule_models == {"auto"}


def test_targets_of_a_rules_own_model_are_all_that_it_may_lead_to() -> None:
    split = {
        "name": "gold",
        "when": {"models": ["auto"], "tenants": ["acme"]},
        "route": [{"pool": "big"}, {"pool": "gone"}],
        "fallback": ["code"],
    }
    always = {"name": "all", "when": {"models": ["auto"]}, "route": [{"pool": "chat"}]}
    unreached = {"name": "never", "route": [{"pool": "next"}]}
    other = {"name": "other", "when": {"models": ["smart"]}, "route": [{"pool": "big"}]}
    pools = (*POOLS, make_pool("next"))
    table = RouteTable([make_policy(rules=[other, split, always, unreached])], pools)
    assert table.targets("auto") == ("big", "chat", "code")
    assert table.targets("smart") == ("big",)
    only_class = {"name": "c", "when": {"models": ["auto"]}, "class": "standard"}
    assert RouteTable([make_policy(rules=[only_class])], POOLS).targets("auto") == ()


@given(draw=st.floats(0, 0.999), tenant=st.sampled_from(["acme", "other"]))
def test_a_request_goes_to_targets_only(draw: float, tenant: str) -> None:
    rules = [
        {
            "name": "gold",
            "when": {"models": ["auto"], "tenants": ["acme"]},
            "route": [{"pool": "big", "weight": 2}, {"pool": "chat", "weight": 1}],
        },
        {"name": "rest", "when": {"models": ["auto"]}, "route": [{"pool": "code"}]},
    ]
    policy = make_policy(rules=rules)
    table = RouteTable([policy], POOLS)
    resolution = go(policy, model="auto", tenant=tenant, draw=draw)
    assert set(pools_of(resolution)) <= set(table.targets("auto")) == {"big", "chat", "code"}


def test_all_conditions_must_hold() -> None:
    when = {
        "models": ["chat"],
        "headers": {"X-Tier": "gold"},
        "tenants": ["acme"],
        "promptTokens": {"over": 100},
    }
    policy = make_policy(rules=[{"name": "r", "when": when, "route": [{"pool": "big"}]}])
    gold = {"x-tier": "gold"}
    assert pools_of(go(policy, headers=gold, tenant="acme", prompt_tokens=101)) == ("big",)
    assert pools_of(go(policy, headers=gold, tenant="acme", prompt_tokens=100)) == ("chat",)
    assert pools_of(go(policy, headers={}, tenant="acme", prompt_tokens=101)) == ("chat",)
    assert pools_of(go(policy, headers=gold, tenant="other", prompt_tokens=101)) == ("chat",)


def test_first_match_wins_and_policies_go_by_priority_then_name() -> None:
    def one(name: str, pool: str, **spec: object) -> RoutingPolicy:
        return make_policy(name, rules=[{"name": name, "route": [{"pool": pool}]}], **spec)

    low, first, second = one("x", "chat"), one("a", "code", priority=5), one("b", "big", priority=5)
    for order in permutations((low, first, second)):
        assert in_order(order) == (first, second, low)
        assert pools_of(go(*order)) == ("code",)


def test_a_tenant_is_that_of_the_policy_that_is_asked_first() -> None:
    low = make_policy(name="low", tenants=[{"name": "acme", "weight": 2}, {"name": "b"}])
    high = make_policy(name="high", priority=5, tenants=[{"name": "acme", "weight": 7}])
    tenants = RouteTable((low, high), POOLS).tenants
    assert {name: one.weight for name, one in tenants.items()} == {"acme": 7, "b": 1}


def test_an_older_policy_goes_before_a_newer_one() -> None:
    def made(name: str, when: str) -> RoutingPolicy:
        return RoutingPolicy.model_validate(
            {"metadata": {"name": name, "creationTimestamp": when}, "spec": {}}
        )

    older, newer = made("z", "2026-01-01T00:00:00Z"), made("a", "2026-02-01T00:00:00Z")
    assert in_order((make_policy("b"), newer, older))[:2] == (older, newer)


def test_fallbacks_come_last_and_each_pool_once() -> None:
    rule = {
        "name": "r",
        "route": [{"pool": "chat", "weight": 1}, {"pool": "code", "weight": 9}],
        "fallback": ["code", "big"],
    }
    assert pools_of(go(make_policy(rules=[rule]), draw=0.05)) == ("chat", "code", "big")
    assert pools_of(go(make_policy(rules=[rule]), draw=0.5)) == ("code", "chat", "big")


def test_a_class_overrides_the_pools_slo() -> None:
    pools = (make_pool("chat", spec={"slo": {"ttft": "500ms"}}),)
    gold = {"name": "gold", "priority": 90, "ttft": "100ms"}
    rules = [{"name": "r", "when": {"tenants": ["acme"]}, "class": "gold"}]
    policy = make_policy(classes=[gold], rules=rules)
    with_rule, without = go(policy, tenant="acme", pools=pools), go(policy, pools=pools)
    assert with_rule
    assert without
    assert (with_rule.slo_class.name, with_rule.slo_class.ttft_s, with_rule.rule) == (
        "gold",
        0.1,
        "r",
    )
    assert (without.slo_class.name, without.slo_class.ttft_s, without.rule) == ("standard", 0.5, "")


def test_standard_fills_what_the_pool_leaves_open() -> None:
    policy = make_policy(
        classes=[{"name": "standard", "priority": 7, "ttft": "2s", "tpot": "80ms"}]
    )
    pools = (make_pool("chat", spec={"slo": {"ttft": "500ms"}}),)
    resolution = go(policy, pools=pools)
    assert resolution
    slo = resolution.slo_class
    assert (slo.priority, slo.ttft_s, slo.tpot_s) == (7, 0.5, 0.08)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any))
def test_draws_follow_the_weights_exactly(weights: list[int]) -> None:
    """A grid of one draw per unit of weight hits each pool as often as its weight says."""
    pools = tuple(make_pool(f"p{n}") for n in range(len(weights)))
    route = [{"pool": f"p{n}", "weight": weight} for n, weight in enumerate(weights)]
    policy = make_policy(rules=[{"name": "r", "route": route}])
    table, total = RouteTable([policy], pools), sum(weights)
    drawn = Counter(
        pools_of(
            table.resolve(
                model="p0", headers={}, tenant="", prompt_tokens=1, draw=(k + 0.5) / total
            )
        )[0]
        for k in range(total)
    )
    assert drawn == {f"p{n}": weight for n, weight in enumerate(weights) if weight}
