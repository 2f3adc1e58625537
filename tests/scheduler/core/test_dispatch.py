"""Picks: spreading, prefix hits, exclusion, ejection, determinism."""

from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject
from shunter_scheduler.domain.events import Failed, Finished, FirstToken, Submitted
from shunter_scheduler.policies import DISPATCH_POLICIES
from shunter_scheduler.policies.ask import Weights


def hashes(*blocks: int) -> bytes:
    return np.array(blocks, dtype="<u8").tobytes()


def test_a_hundred_picks_between_two_looks_spread_out() -> None:
    harness = CoreHarness(make_instances(10))
    harness.apply(*(Submitted(make_request(f"r{i}")) for i in range(100)))
    picks = Counter(d.instance for d in only(Assign, harness.decide()))
    assert sum(picks.values()) == 100
    assert max(picks.values()) - min(picks.values()) <= 2


@pytest.mark.parametrize(
    "policy", sorted(set(DISPATCH_POLICIES) - {"prefix-affinity", "power-of-two"})
)
def test_picks_between_two_looks_spread_as_if_each_was_known(policy: str) -> None:
    harness = CoreHarness(make_instances(10), policies=[make_policy(dispatch={"policy": policy})])
    harness.apply(*(Submitted(make_request(f"r{i}")) for i in range(100)))
    picks = Counter(d.instance for d in only(Assign, harness.decide()))
    assert sum(picks.values()) == 100
    assert max(picks.values()) - min(picks.values()) <= 2


def test_engines_numbers_and_what_was_sent_since_make_one_picture() -> None:
    """A look that shows what was sent takes it out of what is on its way."""
    harness = CoreHarness(make_instances(2), policies=[make_policy(dispatch={"policy": "llumnix"})])
    first = [harness.assign(f"r{i}").instance for i in range(4)]
    busy = first[0]
    assert Counter(first) == {instance.name: 2 for instance in harness.instances}
    record = harness.core._state.instances[busy]
    assert (record.sent.requests, record.sent.kv_tokens) == (2, 2000)
    harness.observe(busy, running=1, waiting=0, kv_cache_usage=0.01)
    assert (record.sent.requests, record.sent.kv_tokens) == (1, 1000)
    harness.observe(busy, running=2, waiting=30, kv_cache_usage=0.9, waiting_kv_tokens=30_000)
    assert (record.sent.requests, record.sent.kv_tokens) == (0, 0)
    assert {harness.assign(f"s{i}").instance for i in range(8)} == set(first) - {busy}


def test_a_batch_is_placed_as_one_by_one() -> None:
    together, apart = CoreHarness(make_instances(7)), CoreHarness(make_instances(7))
    requests = [make_request(f"r{i:02}", prompt_tokens=300 + 700 * (i % 4)) for i in range(40)]
    requests.sort(key=lambda r: r.request_id)
    one_by_one = [d for r in requests for d in apart.after(Submitted(r))]
    at_once = together.after(*(Submitted(r) for r in requests))
    by_id = {d.request_id: d.instance for d in only(Assign, at_once)}
    assert set(by_id) == {d.request_id for d in only(Assign, one_by_one)}
    assert Counter(by_id.values()).total() == 40


def test_a_prefix_hit_draws_a_request_to_its_instance() -> None:
    harness = CoreHarness(make_instances(4))
    prompt = hashes(*range(1, 100))
    first = harness.start("a", prompt_tokens=99 * 64, block_hashes=prompt)
    again = harness.assign("b", prompt_tokens=99 * 64, block_hashes=prompt)
    assert again.instance == first.instance
    assert again.predicted_ttft_s < first.predicted_ttft_s / 2
    other = harness.assign("c", prompt_tokens=99 * 64, block_hashes=hashes(*range(500, 599)))
    assert other.instance != first.instance


@pytest.mark.parametrize(("cached", "stays"), [(0.0, False), (4.0, True)])
def test_a_conversation_comes_back_through_a_short_queue(cached: float, stays: bool) -> None:
    """A cached prefix is worth more than this prefill: the next turns come back to it."""
    harness = CoreHarness(make_instances(2), settings=CoreSettings(weights=Weights(cached=cached)))
    prompt = hashes(*range(59))
    first = harness.start("a", prompt_tokens=59 * 64, block_hashes=prompt)
    harness.apply(Finished("a", 1, 10, "stop"))
    (other,) = {"chat-h100-0", "chat-h100-1"} - {first.instance}
    harness.assign("b", prompt_tokens=7000, excluded_instances=(other,))
    again = harness.assign("c", prompt_tokens=59 * 64, block_hashes=prompt)
    assert (again.instance == first.instance) is stays


def test_an_engine_that_restarted_has_no_prefixes() -> None:
    harness = CoreHarness(make_instances(2))
    prompt = hashes(*range(1, 60))
    first = harness.start("a", prompt_tokens=59 * 64, block_hashes=prompt)
    harness.apply(Finished("a", 1, 5, "stop"))
    harness.observe(first.instance, healthy=False)
    harness.observe(first.instance)
    harness.submit("b", prompt_tokens=59 * 64, block_hashes=prompt)
    explained = harness.core.explain("b", harness.now)
    assert explained is not None and explained.decisions[-1].cached_tokens == 0


@pytest.mark.parametrize("policy", DISPATCH_POLICIES)
def test_every_policy_avoids_what_is_excluded(policy: str) -> None:
    instances = make_instances(4)
    rules = make_policy(dispatch={"policy": policy})
    harness = CoreHarness(instances, policies=[rules])
    harness.observe(instances[0].name, healthy=False)
    banned = (instances[1].name,)
    picks = {harness.start(f"r{i}", excluded_instances=banned).instance for i in range(9)}
    assert picks <= {instances[2].name, instances[3].name}
    explained = harness.core.explain("r5", harness.now)
    assert explained is not None and explained.decisions[0].policy == policy


@pytest.mark.parametrize("policy", DISPATCH_POLICIES)
def test_the_same_events_give_the_same_decisions(policy: str) -> None:
    def run() -> list[object]:
        harness = CoreHarness(
            make_instances(5), policies=[make_policy(dispatch={"policy": policy})]
        )
        decided: list[object] = []
        for i in range(30):
            decided += harness.submit(f"r{i}", prompt_tokens=100 + 37 * i)
            harness.now += 0.01
        return decided

    assert run() == run()


def test_an_exclusion_that_leaves_nobody_counts_no_more() -> None:
    (only_one,) = instances = make_instances(1)
    harness = CoreHarness(instances)
    assigned = harness.assign("r0", epoch=2, excluded_instances=(only_one.name,))
    assert assigned.instance == only_one.name


def fail(harness: CoreHarness, request_id: str, epoch: int = 1) -> None:
    assigned = harness.assign(request_id, epoch=epoch)
    harness.apply(Failed(request_id, epoch, assigned.instance, "engine_5xx"))


def test_three_failures_in_a_row_eject_and_one_request_probes() -> None:
    harness = CoreHarness(make_instances(1))
    for i in range(3):
        fail(harness, f"bad{i}")
    assert only(Hold, harness.submit("r0"))
    assert harness.core.status(harness.now).instances[0].state == "failed"
    wake = harness.core.next_wake(harness.now)
    assert wake is not None
    harness.now = 1.0
    (probe,) = only(Assign, harness.decide())
    assert only(Hold, harness.submit("r1")), "one probe at a time"
    harness.apply(FirstToken(probe.request_id, 1, 0.05))
    assert [d.request_id for d in only(Assign, harness.decide())] == ["r1"]
    assert harness.core.status(harness.now).instances[0].state == "ready"


def test_a_probe_that_fails_backs_off_twice_as_long() -> None:
    harness = CoreHarness(make_instances(1))
    for i in range(3):
        fail(harness, f"bad{i}")
    harness.now = 1.0
    fail(harness, "probe")
    harness.submit("r0")
    harness.now = 2.5
    assert not only(Assign, harness.decide())
    harness.now = 3.0
    assert only(Assign, harness.decide())


def test_an_answer_between_failures_starts_the_count_again() -> None:
    harness = CoreHarness(make_instances(1))
    for i in range(4):
        fail(harness, f"bad{i}")
        harness.start(f"good{i}")
    assert harness.core.status(harness.now).instances[0].state == "ready"


def test_a_429_of_an_engine_is_no_failure() -> None:
    harness = CoreHarness(make_instances(1))
    for i in range(5):
        assigned = harness.assign(f"r{i}")
        harness.apply(Failed(f"r{i}", 1, assigned.instance, "overloaded"))
    assert harness.core.status(harness.now).instances[0].state == "ready"


def test_retries_are_limited_unless_the_engine_was_taken_out() -> None:
    """A dying engine's requests all go on; an engine that fails now and then is not hammered."""
    instances = make_instances(2)
    harness = CoreHarness(instances)
    victims = [harness.assign(f"r{i}") for i in range(40)]
    victims = [v for v in victims if v.instance == instances[0].name]
    assert len(victims) >= 15
    harness.apply(*(Failed(v.request_id, 1, v.instance, "connection") for v in victims))
    again = [make_request(v.request_id, epoch=2, excluded_instances=(v.instance,)) for v in victims]
    decisions = harness.after(*(Submitted(request) for request in again))
    assert not only(Reject, decisions)

    harness = CoreHarness(instances)
    refused = []
    for i in range(30):
        assigned = harness.start(f"r{i}")
        harness.apply(Failed(f"r{i}", 1, assigned.instance, "protocol"))
        refused += only(Reject, harness.submit(f"r{i}", epoch=2))
        harness.apply(FirstToken(f"r{i}", 2, 0.01))
    assert len(refused) == 20
    assert {r.reason for r in refused} == {"overloaded"}
    assert refused[0].retry_after_s > 0
    harness.now = 11.0
    assert only(Assign, harness.submit("r0", epoch=3)), "the window has moved on"


def test_a_repeated_submission_gets_the_same_assignment_again() -> None:
    harness = CoreHarness(make_instances(3))
    first = harness.assign("r0")
    assert harness.submit("r0") == [first]
    harness.check_books()


def test_observed_first_tokens_correct_the_prediction() -> None:
    harness = CoreHarness(make_instances(1))
    predicted = []
    for i in range(150):
        harness.now += 1.0
        assigned = harness.assign(f"r{i}", arrived_at=harness.now)
        predicted.append(assigned.predicted_ttft_s)
        harness.apply(FirstToken(f"r{i}", 1, 0.2), Finished(f"r{i}", 1, 1, "stop"))
    assert predicted[0] < 0.1
    assert predicted[-1] == pytest.approx(0.2, rel=0.1)


def test_two_profiles_are_compared_in_seconds() -> None:
    pool = make_pool("chat", profiles=("h100", "l4"))
    instances = make_instances(2, profile="l4") + make_instances(2, profile="h100")
    harness = CoreHarness(instances, pools=[pool])
    picks = [harness.assign(f"r{i}").instance for i in range(4)]
    assert set(picks) == {"chat-h100-0", "chat-h100-1"}
    for i in range(4, 200):
        harness.submit(f"r{i}")
    loads = harness.loads()
    assert loads["chat-h100-0"].requests > loads["chat-l4-0"].requests > 0


def test_a_large_request_is_not_passed_over_for_ever_by_small_ones() -> None:
    """Eight small ones run; as each ends, another comes. The large one needs the place of seven."""
    harness = CoreHarness(make_instances(2))
    for value in harness.instances:
        harness.observe(value.name, kv_capacity_tokens=10_000)
    running = deque(harness.assign(f"small-{i}").request_id for i in range(16))
    assert only(Hold, harness.submit("large", prompt_tokens=8000))
    placed_at: dict[str, float] = {}
    for step in range(1, 29):
        harness.now = float(step)
        for part in range(2):
            request = make_request(f"later-{step}-{part}", arrived_at=harness.now)
            harness.apply(Finished(running.popleft(), 1, 10, "stop"), Submitted(request))
        for assigned in only(Assign, harness.decide()):
            placed_at[assigned.request_id] = harness.now
            if assigned.request_id != "large":
                running.append(assigned.request_id)
    assert 10.0 <= placed_at["large"] < 25.0
    others = [request_id for request_id, at in placed_at.items() if at < placed_at["large"]]
    assert len(others) > 15, "the other instance goes on taking small ones"
    harness.check_books()


def test_who_takes_over_a_slot_has_nothing_of_who_was_there() -> None:
    """Neither its prefixes, nor its load, nor its place as one that may be picked."""
    old, new = make_instances(2)
    harness = CoreHarness([old])
    prompt = hashes(*range(1, 60))
    harness.start("a", prompt_tokens=59 * 64, block_hashes=prompt)
    harness.apply(Finished("a", 1, 5, "stop"))
    for there in (new, replace(new, revision="b")):
        harness.configure([there])
        assert only(Hold, harness.submit(f"b-{there.revision}"))
        harness.observe(there.name)
        harness.decide()
        last = harness.submit(f"c-{there.revision}", prompt_tokens=59 * 64, block_hashes=prompt)
        assert [d.instance for d in only(Assign, last)] == [new.name]
        explained = harness.core.explain(f"c-{there.revision}", harness.now)
        assert explained is not None and explained.decisions[-1].cached_tokens == 0
        harness.check_books()


def test_a_gateway_that_waits_still_is_answered_though_its_instance_is_gone() -> None:
    """The session ended before the gateway saw the Assign, and then the instance went."""
    old, new = make_instances(2)
    harness = CoreHarness([old])
    assert harness.assign("r0").instance == old.name
    harness.configure([new])
    harness.observe(new.name)
    assert harness.decide() == []
    assert harness.assign("r0").instance == new.name
    harness.check_books()
