"""Status and scaling advice, topology changes, and the small learners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.modelpool import ModelPool
from shunter_api.testing import make_pool
from shunter_scheduler.core.costs import profile_cost
from shunter_scheduler.core.settings import CoreSettings, Retries
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.core.windows import RetryBudget
from shunter_scheduler.domain.decisions import Reject
from shunter_scheduler.domain.events import Failed, Finished, FirstToken, Progress, Submitted


def test_status_counts_what_runs_and_what_users_saw() -> None:
    pool = make_pool("chat", spec={"slo": {"ttft": "500ms", "tpot": "50ms"}})
    harness = CoreHarness(pools=[pool])
    for i in range(4):
        harness.assign(f"r{i}")
    harness.now = 0.4
    harness.apply(*(FirstToken(f"r{i}", 1, 0.4) for i in range(3)))
    harness.now = 0.9
    harness.apply(FirstToken("r3", 1, 0.9))
    harness.now = 1.4
    harness.apply(*(Finished(f"r{i}", 1, 61, "stop") for i in range(4)))
    harness.assign("r4")
    status = harness.core.status(2.0)
    (pool_status,) = status.pools
    assert (pool_status.running, pool_status.waiting, pool_status.ready_instances) == (1, 0, 2)
    assert pool_status.ttft_p95_s == 0.9
    assert pool_status.slo_attainment == 0.75
    assert pool_status.output_tokens_per_s == pytest.approx(4 * 61 / 60)
    assert status.dispatched_total == 5
    assert harness.core.status(90.0).pools[0].slo_attainment == 1.0


def test_status_counts_what_was_placed_again_after_a_failure() -> None:
    harness = CoreHarness()
    for i in range(3):
        instance = harness.assign(f"r{i}").instance
        if i < 2:
            harness.apply(Failed(f"r{i}", 1, instance, "connection"))
    assert harness.core.status(0.0).resumed_total == 0, "they wait"
    for i in range(2):
        harness.assign(f"r{i}", epoch=2, output_tokens=5 * i)
    status = harness.core.status(0.0)
    assert (status.resumed_total, status.dispatched_total) == (2, 5)


def test_a_cancelled_request_does_not_count_against_the_slo() -> None:
    harness = CoreHarness()
    harness.start("r0")
    harness.apply(Finished("r0", 1, 3, "cancelled"))
    assert harness.core.status(1.0).pools[0].slo_attainment == 1.0
    harness.start("r1")
    harness.apply(Finished("r1", 1, 3, "error"))
    assert harness.core.status(1.0).pools[0].slo_attainment == 0.0


def test_scaling_follows_the_load_and_prefers_the_cheaper_profile() -> None:
    profiles = [
        {"name": "h100", "accelerator": "h100", "costPerHour": "2.50"},
        {"name": "l4", "accelerator": "l4", "costPerHour": "0.70"},
    ]
    for profile in profiles:
        profile["replicas"] = {"min": 0, "max": 50}  # type: ignore[assignment]
    pool = make_pool("chat", spec={"profiles": profiles, "slo": {"tpot": "100ms"}})
    harness = CoreHarness(make_instances(20), pools=[pool])
    idle = harness.core.advise_scaling("chat", 0.0)
    assert [advice.desired_replicas for advice in idle] == [1, 0], "the one that is there stays"
    desired = []
    for i in range(600):
        harness.start(f"r{i}")
        if i in (99, 599):
            desired.append([a.desired_replicas for a in harness.core.advise_scaling("", 0.0)])
    assert sum(desired[1]) > sum(desired[0]) >= 1
    advice = harness.core.advise_scaling("chat", 0.0)
    assert [a.replicas for a in advice] == [20, 0]
    assert "600 requests" in advice[0].reason
    assert harness.core.advise_scaling("unknown", 0.0) == []


def test_scaling_stays_between_min_and_max() -> None:
    pool = make_pool(
        "chat",
        spec={"profiles": [{"name": "l4", "accelerator": "l4", "replicas": {"min": 2, "max": 3}}]},
    )
    harness = CoreHarness(make_instances(10, profile="l4"), pools=[pool])
    assert harness.core.advise_scaling("chat", 0.0)[0].desired_replicas == 2
    for i in range(200):
        harness.submit(f"r{i}")
    assert harness.core.advise_scaling("chat", 0.0)[0].desired_replicas == 3


@pytest.mark.parametrize(("utilisation", "first", "later"), [(0.5, 4, 5), (1.0, 2, 3)])
def test_scaling_counts_on_what_requests_hold_in_the_mean(
    utilisation: float, first: int, later: int
) -> None:
    """Prompts of 8,000 tokens, whose answers come to 4,000: those that have just begun will
    hold 10,000 in the mean, those that are nearly through hold 12,000."""
    profile = {"name": "h100", "accelerator": "h100", "replicas": {"min": 0, "max": 50}}
    pool = make_pool("chat", spec={"profiles": [profile], "slo": {"tpot": "10s"}})
    settings = CoreSettings(utilisation=utilisation, default_output_tokens=4000)
    harness = CoreHarness(make_instances(50), pools=[pool], settings=settings)
    capacity = harness.core._state.pools["chat"].models["h100"].cost.kv_capacity_tokens
    count = int(2 * capacity / 10_000)
    for n in range(count):
        harness.start(f"r{n}", prompt_tokens=8000, max_output_tokens=0)
    assert harness.core.advise_scaling("chat", 0.0)[0].desired_replicas == first
    harness.apply(*(Progress(f"r{n}", 1, 4000) for n in range(count)))
    assert harness.core.advise_scaling("chat", 0.0)[0].desired_replicas == later


def test_a_removed_pool_refuses_those_that_wait() -> None:
    harness = CoreHarness(make_instances(1), healthy=False)
    harness.submit("r0")
    harness.configure((), (make_pool("other"),))
    (reject,) = only(Reject, harness.decide())
    assert (reject.request_id, reject.reason) == ("r0", "unknown_model")


def test_a_removed_pool_refuses_those_that_were_not_looked_at_yet() -> None:
    harness = CoreHarness(make_instances(1))
    harness.apply(Submitted(make_request("r0")))
    harness.configure((), (make_pool("other"),))
    assert [reject.request_id for reject in only(Reject, harness.decide())] == ["r0"]


def test_a_pool_that_comes_back_takes_up_what_still_runs() -> None:
    instances, pools = make_instances(1), (make_pool("chat"),)
    harness = CoreHarness(instances, pools=pools)
    harness.start("r0")
    harness.configure((), (make_pool("other"),))
    harness.configure(instances, pools)
    harness.observe(instances[0].name)
    harness.check_books()
    assert harness.loads()[instances[0].name].requests == 1
    harness.assign("r1")
    explained = harness.core.explain("r1", 0.0)
    assert explained is not None
    assert dict(explained.decisions[0].candidates[0].terms)["slowdown"] > 0


def test_other_replica_counts_leave_instances_as_they_are() -> None:
    def pool(most: int) -> ModelPool:
        replicas = {"min": 1, "max": most}
        profile = {"name": "h100", "accelerator": "h100", "replicas": replicas}
        return make_pool("chat", spec={"profiles": [profile]})

    harness = CoreHarness(pools=[pool(2)])
    harness.start("r0")
    harness.configure(None, (pool(5),))
    assert {i.state for i in harness.core.status(0.0).instances} == {"ready"}
    assert harness.core.advise_scaling("chat", 0.0)[0].desired_replicas == 1


def test_an_instance_at_another_address_is_a_new_one() -> None:
    instances = make_instances(2)
    harness = CoreHarness(instances)
    harness.assign("r0")
    moved = instances[0].__class__(instances[0].name, "chat", "h100", "127.0.0.1:7777", "simulated")
    harness.configure((moved, instances[1]))
    harness.check_books()
    states = {i.name: i.state for i in harness.core.status(0.0).instances}
    assert states == {instances[0].name: "starting", instances[1].name: "ready"}


def test_an_older_configuration_is_ignored() -> None:
    harness = CoreHarness()
    harness.version = -5
    harness.configure(())
    assert len(harness.core.status(0.0).instances) == 2


def test_slots_are_used_again_and_columns_grow() -> None:
    harness = CoreHarness(make_instances(40))
    harness.configure(make_instances(40)[:3])
    harness.configure(make_instances(60))
    for value in harness.instances:
        harness.observe(value.name)
    picks = {harness.assign(f"r{i}").instance for i in range(60)}
    assert picks == {value.name for value in harness.instances}


@pytest.mark.parametrize("model", ["no-such-model-anywhere", "llama-3.1-70b"])
def test_a_model_that_is_unknown_or_does_not_fit_still_gets_rates(model: str) -> None:
    pool = make_pool("chat", profiles=("l4",), source=f"sim://{model}")
    cost = profile_cost(pool, pool.profiles[0])
    assert cost.kv_capacity_tokens > 0
    assert cost.rates.prefill_s_per_token > 0
    harness = CoreHarness(make_instances(1, profile="l4"), pools=[pool])
    assert harness.assign("r0").predicted_ttft_s > 0


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=200))
def test_the_retry_budget_equals_a_naive_count(calls: list[tuple[float, bool]]) -> None:
    budget, now = RetryBudget(Retries(share=0.5, at_least=3, window_s=10)), 0.0
    requests: list[int] = []
    retries: list[int] = []
    for pause, retry in calls:
        now += pause
        budget.count_request(now)
        requests.append(int(now))
        if retry:
            lately = [[s for s in seen if s > int(now) - 10] for seen in (requests, retries)]
            allowed = len(lately[1]) < max(3, 0.5 * len(lately[0]))
            assert budget.take_retry(now) == allowed
            retries += [int(now)] * allowed


def test_settings_have_defaults_that_make_sense() -> None:
    settings = CoreSettings()
    assert settings.head_room.kv_soft_limit < 1 - settings.head_room.kv_watermark
