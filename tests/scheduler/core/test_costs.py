"""What profiles cost: the rates a core begins with, and what observations make of them."""

from shunter_api.modelpool import ModelPool, Profile
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import ProfileCost, profile_cost
from shunter_scheduler.core.testing import CoreHarness, make_instances
from shunter_scheduler.costmodel import LinearRates

MEASURED = LinearRates(0.1, 1e-3, 0.05, 1e-3, 1e-6)


def test_a_core_begins_with_the_rates_it_is_given() -> None:
    asked: list[tuple[str, str]] = []

    def measured(pool: ModelPool, profile: Profile) -> ProfileCost:
        asked.append((pool.name, profile.name))
        return ProfileCost(MEASURED, 5000, 0.0)

    harness = CoreHarness(make_instances(3), profile_costs=measured)
    assert asked == [("chat", "h100")]  # the instances of a profile share its model
    assert harness.assign("r0", prompt_tokens=2000).predicted_ttft_s == 0.1 + 2000 * 1e-3
    assert {i.kv_capacity_tokens for i in harness.core.status(0.0).instances} == {5000}


def test_advice_uses_the_rates_that_a_core_is_given() -> None:
    """A profile without an instance has no model of its own yet."""
    pool = make_pool("chat", profiles=("h100", "l4"))

    def slow_h100(pool: ModelPool, profile: Profile) -> ProfileCost:
        cost = profile_cost(pool, profile)
        return ProfileCost(MEASURED, 2000, 0.0) if profile.name == "h100" else cost

    advice = CoreHarness((), pools=[pool], profile_costs=slow_h100).core.advise_scaling("chat", 0.0)
    given = CoreHarness((), pools=[pool]).core.advise_scaling("chat", 0.0)
    assert [a.profile for a in advice] == [a.profile for a in given] == ["h100", "l4"]
    assert advice[0].reason != given[0].reason
    assert advice[1].reason == given[1].reason
