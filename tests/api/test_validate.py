"""What must hold between resources, each problem with its place."""

from pathlib import Path

import pytest
import yaml

from shunter_api.problems import ConfigurationError
from shunter_api.validate import load_configuration

API = "apiVersion: shunter.dev/v1alpha1\n"
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


def pool(name: str, aliases: str = "[]") -> str:
    return (
        f"{API}kind: ModelPool\nmetadata: {{name: {name}}}\nspec:\n"
        f"  model:\n    source: sim://llama-3.1-8b\n    aliases: {aliases}\n"
        "  engine: {type: simulated}\n  profiles: [{name: h100, accelerator: h100}]\n"
    )


def policy(spec: str) -> str:
    return f"{API}kind: RoutingPolicy\nmetadata: {{name: p}}\nspec:\n{spec}"


def instances(*items: str) -> str:
    return f"{API}kind: InstanceList\nitems:\n" + "".join(f"  - {{{item}}}\n" for item in items)


def refused(*texts: str) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        load_configuration([(f"{n}.yaml", text) for n, text in enumerate(texts)])
    return [str(problem) for problem in error.value.problems]


def test_two_pools_with_one_model_name() -> None:
    (problem,) = refused(pool("a", "[default]"), pool("b", "[other, default]"))
    assert problem.startswith("1.yaml:7: spec.model.aliases[1]: model name 'default'")
    assert "pool 'a' already (0.yaml:7)" in problem


def test_an_alias_that_is_another_pools_name() -> None:
    (problem,) = refused(pool("a"), pool("b", "[a]"))
    assert problem.startswith("1.yaml:7: spec.model.aliases[0]")


def test_a_tenant_in_two_policies() -> None:
    first = policy("  tenants: [{name: acme, weight: 2}]\n")
    second = policy("  tenants: [{name: other}, {name: acme}]\n").replace("name: p}", "name: q}")
    (problem,) = refused(pool("chat"), first, second)
    assert problem.startswith(
        "2.yaml:5: spec.tenants[1].name: tenant 'acme' is in a policy already"
    )
    assert "(1.yaml:5)" in problem


def test_two_pools_of_one_name() -> None:
    (problem,) = refused(pool("a"), pool("a"))
    assert problem == (
        "1.yaml:3: metadata.name: a ModelPool called 'a' is already in 0.yaml:3; "
        "rename or remove one"
    )


@pytest.mark.parametrize(
    ("spec", "place", "says"),
    [
        ("rules: [{name: r, route: [{pool: chta}]}]", "rules[0].route[0].pool", "mean 'chat'?"),
        ("rules: [{name: r, fallback: [x]}]", "rules[0].fallback[0]", "known: chat"),
        ("rules: [{name: r, class: gold}]", "rules[0].class", "known: standard"),
        ("dispatch: {policy: round-robbin}", "dispatch.policy", "'round-robin'"),
        ("rules: [{name: r, when: {}}]", "rules[0].when", "says nothing"),
        ("rules: [{name: r, route: [{pool: chat, weight: 0}]}]", "rules[0].route", "weight is 0"),
    ],
)
def test_rules_that_name_what_is_not_there(spec: str, place: str, says: str) -> None:
    (problem,) = refused(pool("chat"), policy(f"  {spec}\n"))
    assert problem.startswith(f"1.yaml:5: spec.{place}: ")
    assert says in problem


def test_instances_of_unknown_pools_and_profiles() -> None:
    entries = instances(
        "name: a, pool: chat, profile: h100, address: '127.0.0.1:1'",
        "name: b, pool: chatt, profile: h100, address: '127.0.0.1:2'",
        "name: c, pool: chat, profile: h200, address: '127.0.0.1:3'",
        "name: a, pool: chat, profile: h100, address: '127.0.0.1:3'",
    )
    found = refused(pool("chat"), entries)
    assert [problem.partition(": ")[2].split(":")[0] for problem in found] == [
        "items[1].pool",
        "items[2].profile",
        "items[3].address",
        "items[3].name",
    ]


def test_a_broken_pool_is_not_reported_again_as_missing() -> None:
    route = policy("  rules: [{name: r, route: [{pool: chat}]}]\n")
    (problem,) = refused(pool("chat").replace("h100}", "h10}"), route)
    assert "spec.profiles[0].accelerator" in problem


def test_good_files_give_a_configuration() -> None:
    entry = instances("name: a, pool: chat, profile: h100, address: 'localhost:1'")
    configuration = load_configuration([("0", pool("chat")), ("1", policy("  {}\n")), ("2", entry)])
    assert configuration.pools[0].name == "chat"
    assert configuration.policies[0].spec.dispatch.policy == "predicted-cost"
    assert configuration.instances[0].address == "localhost:1"


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_resource_in_manifests_is_valid(path: Path) -> None:
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    if not any(str(d.get("apiVersion", "")).startswith("shunter.dev/") for d in documents):
        pytest.skip("holds no resource of ours")
    configuration = load_configuration([(str(path), path.read_text())])
    assert configuration.pools


def test_a_message_lists_no_more_names_than_can_be_read() -> None:
    pools = [pool(f"p{number:02}") for number in range(25)]
    (problem,) = refused(*pools, policy("  rules: [{name: r, fallback: [x]}]\n"))
    assert problem.endswith("p18, p19 and 5 more") and "p20" not in problem
