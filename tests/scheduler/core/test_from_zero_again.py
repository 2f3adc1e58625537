"""A pool without an instance: restarts, fallbacks, starts that came to nothing, and any order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from from_zero import advised, at_zero, full_instance, start, zero_pool
from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject
from shunter_scheduler.domain.events import Finished, GatewayLost


def test_a_request_that_is_submitted_again_is_told_again_that_it_is_held() -> None:
    """Its gateway had lost the session, and with it perhaps the answer."""
    harness = at_zero()
    harness.submit("r0")
    harness.submit("r1")
    harness.now = 8.0
    (hold,) = only(Hold, harness.submit("r1"))
    assert (hold.request_id, hold.position, hold.phase) == ("r1", 1, "scaling-up")
    harness = full_instance()
    (hold,) = only(Hold, harness.submit("r1", prompt_tokens=8000))
    assert (hold.position, hold.phase) == (0, "queued")


def test_a_request_that_is_submitted_again_is_told_again_that_it_was_turned_away() -> None:
    harness = at_zero()
    harness.submit("r0")
    harness.now = 300.0
    (reject,) = only(Reject, harness.decide())
    assert harness.submit("r0") == [reject]
    assert only(Hold, harness.submit("r0", epoch=2)), "it begins anew"
    harness.check_books()


def test_time_in_the_queue_of_an_earlier_scheduler_counts() -> None:
    harness = at_zero()
    harness.now = 1000.0
    harness.submit("old", arrived_at=0.0, queued_at=750.0)
    harness.submit("new", arrived_at=0.0)
    harness.now = 1050.0
    (reject,) = only(Reject, harness.decide())
    assert (reject.request_id, reject.reason) == ("old", "hold_timeout")
    assert "within 300 s" in reject.message
    harness.now = 1300.0
    (reject,) = only(Reject, harness.decide())
    assert reject.request_id == "new"


def test_who_waited_longer_under_an_earlier_scheduler_goes_first() -> None:
    harness = at_zero()
    harness.now = 100.0
    harness.submit("new", arrived_at=100.0)
    (hold,) = only(Hold, harness.submit("old", arrived_at=0.0, queued_at=0.0))
    assert hold.position == 0


def test_a_fallback_that_comes_into_service_during_the_wait_is_taken() -> None:
    rule = {"name": "r", "when": {"models": ["any"]}, "route": [{"pool": "chat"}]}
    policy = make_policy(rules=[{**rule, "fallback": ["other"]}])
    harness = at_zero(zero_pool(), zero_pool("other"), policies=[policy])
    assert only(Hold, harness.submit("r0", model="any"))
    harness.now = 5.0
    assert only(Assign, harness.decide()) == []
    start(harness, "other")
    harness.now = 6.0
    (assign,) = only(Assign, harness.decide())
    assert assign.pool == "other"
    harness.check_books()


def test_a_fallback_that_nobody_asked_for_before_has_a_queue() -> None:
    rule = {"name": "r", "when": {"models": ["any"]}, "route": [{"pool": "chat"}]}
    policy = make_policy(rules=[{**rule, "fallback": ["other"]}])
    pools = [make_pool("chat"), make_pool("other")]
    instances = (*make_instances(1), *make_instances(1, "other"))
    harness = CoreHarness(instances, pools=pools, policies=[policy])
    for instance in instances:
        harness.observe(instance.name, kv_capacity_tokens=9000)
    for i in range(4):
        harness.submit(f"r{i}", model="any", prompt_tokens=8000)
    harness.observe("chat-h100-0", healthy=False)
    decisions = harness.decide()
    assert only(Reject, decisions) == []
    assert len(only(Assign, decisions)) == 1
    harness.check_books()


def test_an_instance_that_was_away_for_a_moment_is_no_start() -> None:
    harness = at_zero()
    harness.submit("r0")
    harness.now = 90.0
    start(harness)
    harness.decide()
    harness.observe("chat-h100-0", healthy=False)
    harness.submit("r1")
    harness.now = 92.0
    harness.observe("chat-h100-0")
    harness.decide()
    for ended in ("r0", "r1"):
        harness.apply(Finished(ended, 1, 3, "stop"))
    harness.configure(())
    harness.now = 1000.0
    (hold,) = only(Hold, harness.submit("r2"))
    assert hold.eta_s == 90.0


def test_a_start_that_nobody_waited_for_any_more_says_nothing_of_the_next() -> None:
    harness = at_zero()
    harness.submit("r0")
    harness.now = 10.0
    harness.apply(Finished("r0", 1, 0, "cancelled"))
    harness.now = 5000.0
    harness.submit("r1")
    harness.now = 5060.0
    start(harness)
    harness.decide()
    harness.apply(Finished("r1", 1, 3, "stop"))
    harness.configure(())
    harness.now = 6000.0
    (hold,) = only(Hold, harness.submit("r2"))
    assert hold.eta_s == 60.0


STEPS = st.lists(
    st.sampled_from(["submit", "again", "finish", "start", "flap", "stop", "wait", "lose"]),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_no_request_is_forgotten_and_none_waits_without_advice(steps: list[str]) -> None:
    harness = at_zero()
    waiting: dict[str, None] = {}
    running: dict[str, None] = {}
    for number, step in enumerate(steps):
        harness.now += 1.0
        match step:
            case "submit":
                waiting[f"r{number}"] = None
                decisions = harness.submit(f"r{number}")
            case "again" if waiting:
                repeated = next(reversed(waiting))
                decisions = harness.submit(repeated)
                assert repeated in [d.request_id for d in decisions], "it is never left without"
            case "flap" if harness.instances:
                harness.observe("chat-h100-0", healthy=False)
                decisions = harness.decide()
                harness.observe("chat-h100-0")
                decisions += harness.decide()
            case "finish" if running:
                ended = next(iter(running))
                del running[ended]
                decisions = harness.after(Finished(ended, 1, 2, "stop"))
            case "start" if not harness.instances:
                start(harness)
                decisions = harness.decide()
            case "stop" if not running:
                harness.configure(())
                decisions = harness.decide()
            case "wait":
                harness.now += 400.0
                decisions = harness.decide()
            case "lose":
                decisions = harness.after(GatewayLost("gateway"))
                waiting, running = {}, {}
            case _:
                continue
        for assign in only(Assign, decisions):
            del waiting[assign.request_id]
            running[assign.request_id] = None
        for reject in only(Reject, decisions):
            del waiting[reject.request_id]
        harness.check_books()
        status = harness.core.status(harness.now).pools[0]
        assert (status.waiting, status.running) == (len(waiting), len(running))
        assert len(waiting) <= 3 or harness.instances
        if waiting or running:
            assert advised(harness) >= 1
