"""Shares and limits of tenants: what is taken, held, given back, and never lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.fairness import service_charge
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.tenants import MAX_SHOWN, TenantLimits, TokenBucket
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject
from shunter_scheduler.domain.events import Failed, Finished, MoveDone, Progress, Running, Submitted
from shunter_scheduler.domain.status import TenantStatus

ONE_AT_A_TIME = CoreSettings(head_room=HeadRoom(max_requests=1), fair_window_tokens=0.0)


def harness_with(*tenants: dict[str, Any], **options: Any) -> CoreHarness:
    policies = [make_policy(tenants=list(tenants), **options.pop("policy", {}))]
    return CoreHarness(options.pop("instances", make_instances(1)), policies=policies, **options)


def limits_of(harness: CoreHarness, tenant: str) -> TenantLimits:
    return harness.core._state.tenants[tenant]


def level(harness: CoreHarness, tenant: str) -> float:
    bucket = limits_of(harness, tenant).bucket
    assert bucket is not None
    return bucket.level(harness.now)


# ------------------------------------------------------------ tokens per minute


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0.0, 90.0), st.integers(1, 20_000), st.floats(0.0, 2.0))),
)
def test_never_more_than_the_rate_and_one_minutes_burst(
    per_minute: int, calls: list[tuple[float, int, float]]
) -> None:
    """Whatever is asked and however far predictions are off."""
    bucket, now, used = TokenBucket(per_minute, 0.0), 0.0, 0.0
    most_off = 0.0
    for pause, tokens, factor in calls:
        now += pause
        wait_s = bucket.take(tokens, now)
        if wait_s:
            assert bucket.take(tokens, now + wait_s * 0.99) or wait_s < 1e-9
            continue
        actual = tokens * factor
        bucket.give_back(tokens - actual, now)
        used += actual
        most_off = max(most_off, actual)
        assert used <= per_minute * (1 + now / 60) + most_off + 1e-6


@given(st.integers(1, 10_000), st.integers(1, 50_000), st.floats(0.0, 600.0))
def test_who_comes_again_when_told_is_served(per_minute: int, tokens: int, at: float) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(per_minute * 0.7, at)
    wait_s = bucket.take(tokens, at)
    assert 0.0 <= wait_s <= 60.0
    if wait_s:
        assert bucket.take(tokens, at + wait_s + 1e-6) == 0.0


def test_beyond_its_tokens_a_tenant_is_refused_until_there_are_enough() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 2400})
    assert only(Assign, harness.submit("r0", tenant="a"))  # 1,000 and 100 expected
    assert only(Assign, harness.submit("r1", tenant="a"))
    (reject,) = only(Reject, harness.submit("r2", tenant="a"))
    assert reject.reason == "rate_limited"
    assert reject.retry_after_s == pytest.approx((1100 - 200) / 40)
    assert "tenant 'a' has used its 2400 tokens per minute" in reject.message
    assert only(Assign, harness.submit("other", tenant="b")), "others are not concerned"
    harness.now += reject.retry_after_s + 0.001
    assert only(Assign, harness.submit("r3", tenant="a"))


def test_what_was_predicted_and_not_generated_is_given_back() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 6000})
    harness.start("r0", tenant="a")
    assert level(harness, "a") == pytest.approx(6000 - 1100)
    harness.apply(Finished("r0", 1, 30, "stop"))
    assert level(harness, "a") == pytest.approx(6000 - 1030)


def test_what_goes_beyond_the_prediction_is_taken_as_it_comes() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 2400})
    harness.start("r0", tenant="a")
    harness.apply(Progress("r0", 1, 80))
    assert level(harness, "a") == pytest.approx(2400 - 1100), "as predicted"
    harness.apply(Progress("r0", 1, 700), Progress("r0", 1, 1700))
    assert level(harness, "a") == pytest.approx(2400 - 2700)
    (reject,) = only(Reject, harness.submit("r1", tenant="a"))
    assert reject.reason == "rate_limited"
    harness.apply(Finished("r0", 1, 1750, "stop"))
    assert level(harness, "a") == pytest.approx(2400 - 2750)


def test_who_was_never_placed_has_used_nothing() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 6000}, settings=ONE_AT_A_TIME)
    harness.start("first", tenant="a")
    assert only(Hold, harness.submit("r0", tenant="a"))
    assert level(harness, "a") == pytest.approx(6000 - 2200)
    harness.apply(Finished("r0", 1, 0, "cancelled"))
    assert level(harness, "a") == pytest.approx(6000 - 1100)


def test_one_that_goes_on_elsewhere_is_neither_refused_nor_charged_twice() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 1200}, instances=make_instances(2))
    assigned = harness.start("r0", tenant="a")
    harness.apply(Progress("r0", 1, 40), Failed("r0", 1, assigned.instance, "connection", 40))
    assert level(harness, "a") == pytest.approx(1200 - 1040)
    again = {"tenant": "a", "epoch": 2, "output_tokens": 40, "pool": "chat"}
    assert only(Assign, harness.submit("r0", **again))
    harness.apply(Finished("r0", 2, 90, "stop"))
    assert level(harness, "a") == pytest.approx(1200 - 1090)


def test_one_that_was_suspended_before_its_first_token_is_not_charged_twice() -> None:
    harness = harness_with({"name": "a", "tokensPerMinute": 1200})
    harness.assign("r0", tenant="a")
    assert only(Assign, harness.submit("r0", tenant="a", epoch=2, suspended=True))
    harness.apply(Finished("r0", 2, 30, "stop"))
    assert level(harness, "a") == pytest.approx(1200 - 1030)


# ------------------------------------------------------------ requests at once


def test_beyond_max_concurrent_requests_wait_and_others_go_by() -> None:
    harness = harness_with({"name": "a", "maxConcurrent": 2})
    for n in range(2):
        assert only(Assign, harness.submit(f"r{n}", tenant="a"))
    (hold,) = only(Hold, harness.submit("r2", tenant="a"))
    assert hold.request_id == "r2"
    explanation = harness.core.explain("r2", harness.now)
    assert explanation is not None
    assert explanation.decisions[-1].reason == "tenant 'a' runs as many requests as it may: 2"
    assert only(Assign, harness.submit("other", tenant="b"))
    (placed,) = only(Assign, harness.after(Finished("r0", 1, 10, "stop")))
    assert placed.request_id == "r2"
    harness.check_books()


def test_an_end_in_one_pool_lets_one_go_on_in_another() -> None:
    instances = make_instances(1) + make_instances(1, pool="code")
    harness = harness_with(
        {"name": "a", "maxConcurrent": 1},
        instances=instances,
        pools=(make_pool("chat"), make_pool("code")),
    )
    assert only(Assign, harness.submit("r0", tenant="a"))
    assert only(Hold, harness.submit("r1", tenant="a", model="code"))
    (placed,) = only(Assign, harness.after(Finished("r0", 1, 10, "stop")))
    assert (placed.request_id, placed.pool) == ("r1", "code")


def test_what_runs_already_counts_after_a_restart_and_under_new_limits() -> None:
    harness = harness_with({"name": "a", "maxConcurrent": 1})
    running = make_request("old", tenant="a")
    harness.apply(Running(running, "chat-h100-0"))
    assert only(Hold, harness.submit("new", tenant="a"))
    harness.policies = (make_policy(tenants=[{"name": "a", "maxConcurrent": 2}]),)
    harness.configure()
    (placed,) = only(Assign, harness.decide())
    assert placed.request_id == "new"
    assert limits_of(harness, "a").running == 2
    assert only(Hold, harness.submit("third", tenant="a"))
    harness.policies = (make_policy(),)
    harness.configure()
    assert only(Assign, harness.decide()), "no limits any more"
    for request_id in ("old", "new", "third"):
        harness.apply(Finished(request_id, 1, 5, "stop"))
    harness.check_books()


def test_one_that_is_reported_as_moved_while_it_waits_counts_as_running() -> None:
    """The gateway's journal is the record; here the move is news."""
    harness = harness_with({"name": "a", "maxConcurrent": 2})
    for n in range(3):
        harness.submit(f"r{n}", tenant="a")
    harness.apply(MoveDone("r2", 2, "chat-h100-0", True, "replay"))
    assert limits_of(harness, "a").running == 3
    assert only(Hold, harness.submit("r3", tenant="a"))
    placed = only(Assign, harness.after(Finished("r0", 1, 10, "stop")))
    assert placed == [], "two of two still run"
    harness.apply(*(Finished(f"r{n}", 1 + (n == 2), 10, "stop") for n in (1, 2)))
    assert limits_of(harness, "a").running == 0
    harness.check_books()


# ------------------------------------------------------------ what is told of them


def told(harness: CoreHarness) -> dict[str, TenantStatus]:
    return {one.name: one for one in harness.core.status(harness.now).tenants}


def test_each_that_a_policy_names_is_counted_and_all_others_together() -> None:
    limited = {"name": "a", "tokensPerMinute": 2400}
    harness = harness_with(limited, {"name": "b"}, instances=make_instances(2))
    harness.start("r0", tenant="a")
    harness.start("r1", tenant="a")
    assert only(Reject, harness.submit("r2", tenant="a"))
    harness.start("r3", tenant="c")
    harness.start("r4", tenant="d")
    harness.apply(*(Finished(f"r{n}", 1, 30, "stop") for n in (1, 3, 4)))
    assert told(harness) == {
        "a": TenantStatus("a", 1, 0, 2400 - 1100 - 1030, 1, 1, 1000, 30),
        "b": TenantStatus("b"),
        "other": TenantStatus("other", 0, 0, None, 2, 0, 2000, 60),
    }


def test_one_that_fails_over_is_one_request_with_one_prompt() -> None:
    harness = harness_with({"name": "a"}, instances=make_instances(2))
    assigned = harness.start("r0", tenant="a")
    harness.apply(Progress("r0", 1, 40), Failed("r0", 1, assigned.instance, "connection", 40))
    assert only(Assign, harness.submit("r0", tenant="a", epoch=2, output_tokens=40, pool="chat"))
    harness.apply(Finished("r0", 2, 90, "stop"))
    assert told(harness)["a"] == TenantStatus("a", 0, 0, None, 1, 0, 1000, 90)


def test_waiting_is_told_and_who_never_ran_used_nothing() -> None:
    harness = harness_with({"name": "a", "maxConcurrent": 1})
    harness.start("r0", tenant="a")
    harness.submit("r1", tenant="a")
    assert (told(harness)["a"].running, told(harness)["a"].waiting) == (1, 1)
    harness.apply(Finished("r1", 1, 0, "cancelled"))
    assert told(harness)["a"] == TenantStatus("a", running=1)


def test_where_no_policy_names_any_nothing_is_told() -> None:
    harness = harness_with()
    harness.start("r0", tenant="a")
    assert told(harness) == {}


def test_series_are_bounded_and_who_has_one_keeps_it() -> None:
    """The highest weights are shown; a counter never changes its series."""
    many = [{"name": f"t{n}", "weight": 1 + n} for n in range(MAX_SHOWN + 20)]
    harness = harness_with(*many)
    shown = set(told(harness))
    assert shown == {"other", *(one["name"] for one in many[20:])}
    harness.start("low", tenant="t0")
    harness.apply(Finished("low", 1, 30, "stop"))
    assert told(harness)["other"].output_tokens == 30
    heavier = [{**one, "weight": 1000} for one in many[:20]]
    harness.policies = (make_policy(tenants=[*heavier, *many[20:], {"name": "other"}]),)
    harness.configure()
    assert set(told(harness)) == shown
    harness.policies = (make_policy(tenants=[*heavier, *many[21:]]),)
    harness.configure()
    harness.policies = (make_policy(tenants=[*heavier, *many[21:], {"name": "new"}]),)
    harness.configure()
    assert set(told(harness)) == shown - {"t20"} | {"new"}, "a place came free"


# ------------------------------------------------------------ shares


def flood(harness: CoreHarness, seconds: int) -> dict[str, float]:
    """Two tenants always have requests waiting, one many more; each takes a second in turn. Their
    service in priced tokens."""
    served = {"flood": 0.0, "quiet": 0.0}
    number = 0

    def submit(tenant: str) -> None:
        nonlocal number
        number += 1
        tokens = 200 + 1600 * (tenant == "flood")  # its requests are larger, too
        request = make_request(
            f"{tenant}-{number}", tenant=tenant, prompt_tokens=tokens, arrived_at=harness.now
        )
        harness.apply(Submitted(request))

    for tenant, count in (("flood", 60), ("quiet", 6)):
        for _ in range(count):
            submit(tenant)
    running = only(Assign, harness.decide())
    for _ in range(seconds):
        (assigned,) = running
        tenant = assigned.request_id.split("-")[0]
        request = harness.core._state.entries[assigned.request_id].request
        outputs = 20 + harness.core._state.entries[assigned.request_id].epoch
        served[tenant] += service_charge(request.prompt_tokens, outputs)
        harness.now += 1.0
        submit(tenant)
        submit("flood")
        running = only(Assign, harness.after(Finished(assigned.request_id, 1, outputs, "stop")))
    harness.check_books()
    return served


PATIENT = {"admission": {"queueTimeout": "1h", "maxQueued": 10000}}


def test_a_flood_takes_no_more_than_its_share() -> None:
    """Also where it has waited so long that its class ages."""
    served = flood(harness_with(settings=ONE_AT_A_TIME, policy=PATIENT), 150)
    # VTC's bound: one request of each at most, here of 1,800 and 100 tokens.
    assert abs(served["flood"] - served["quiet"]) <= 2 * service_charge(1800, 100)
    assert min(served.values()) > 20_000


def test_shares_follow_the_weights() -> None:
    tenant = {"name": "quiet", "weight": 3}
    served = flood(harness_with(tenant, settings=ONE_AT_A_TIME, policy=PATIENT), 200)
    gap = served["quiet"] / 3 - served["flood"]
    assert abs(gap) <= 2 * service_charge(1800, 100)


def test_longer_answers_than_predicted_are_charged_as_they_come() -> None:
    harness = harness_with(settings=ONE_AT_A_TIME, policy=PATIENT)
    harness.start("first")
    for name in ("a0", "a1", "b0", "b1"):
        harness.submit(name, tenant=name[0], max_output_tokens=0)
    (placed,) = only(Assign, harness.after(Finished("first", 1, 5, "stop")))
    account = harness.core._state.entries[placed.request_id].account
    assert account is not None
    before = account.counter
    harness.apply(Progress(placed.request_id, 1, 2000))
    expected = service_charge(1000, 2000) - service_charge(1000, 256)
    assert account.counter >= before + expected * 0.85, "the first answer has set what is expected"
    harness.apply(Finished(placed.request_id, 1, 2000, "stop"))
    harness.check_books()


def test_when_the_queue_is_full_the_flood_is_shed() -> None:
    harness = harness_with(settings=ONE_AT_A_TIME, policy={"admission": {"maxQueued": 4}})
    harness.start("first")
    for n in range(4):
        harness.submit(f"f{n}", tenant="flood", arrived_at=harness.now + n)
    (shed,) = only(Reject, harness.submit("q0", tenant="quiet"))
    assert (shed.request_id, shed.reason) == ("f3", "overloaded")
    assert shed.retry_after_s >= 1.0
    (shed,) = only(Reject, harness.submit("f4", tenant="flood", arrived_at=9.0))
    assert shed.request_id == "f4"
