"""Explanations: terms that add up, who was excluded and why, also after the end, bounded."""

from dataclasses import replace

import pytest

from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Assign, Hold
from shunter_scheduler.domain.events import DrainRequested, Failed, Finished, FirstToken, Progress
from shunter_scheduler.domain.explanation import Explanation


def explain(harness: CoreHarness, request_id: str) -> Explanation:
    found = harness.core.explain(request_id, harness.now)
    assert found is not None
    return found


@pytest.mark.parametrize("instances", [1, 3, 40])
def test_candidates_come_best_first_and_add_up(instances: int) -> None:
    harness = CoreHarness(make_instances(instances))
    for i in range(30):
        harness.start(f"r{i}", prompt_tokens=100 + 200 * i)
    for i in range(30):
        (record,) = explain(harness, f"r{i}").decisions
        scores = [candidate.score_s for candidate in record.candidates]
        assert scores == sorted(scores)
        assert len(record.candidates) == min(8, instances)
        assert record.candidates[0].score_s == min(scores)
        by_name = {candidate.instance: candidate for candidate in record.candidates}
        assert by_name[record.winner].score_s == pytest.approx(scores[0])
        assert record.candidates_total == instances and record.excluded_total == 0
        for candidate in record.candidates:
            assert candidate.score_s == sum(seconds for _, seconds in candidate.terms)
        if instances > 1:
            assert record.runner_up not in ("", record.winner)


def test_the_first_token_is_predicted_with_what_is_not_known() -> None:
    """The bound comes nearer with observations that agree."""
    harness = CoreHarness(make_instances(2))
    assigned = harness.assign("r0", prompt_tokens=8000)
    (record,) = explain(harness, "r0").decisions
    assert record.ttft_s == pytest.approx(assigned.predicted_ttft_s)
    assert record.ttft_s is not None and record.ttft_at_most_s is not None
    before = record.ttft_at_most_s / record.ttft_s
    assert before == pytest.approx(1 + 1.645 * 0.3, rel=0.05)
    for i in range(100):
        harness.start(f"s{i}", prompt_tokens=1000 + 50 * i)
        harness.apply(Finished(f"s{i}", 1, 1, "stop"))
        harness.now += 1.0
    harness.assign("r1", prompt_tokens=8000)
    (record,) = explain(harness, "r1").decisions
    assert record.ttft_s is not None and record.ttft_at_most_s is not None
    assert record.ttft_s < record.ttft_at_most_s < (1 + (before - 1) / 2) * record.ttft_s


def test_a_hold_predicts_no_first_token() -> None:
    harness = CoreHarness(make_instances(1), healthy=False)
    harness.submit("r0")
    (record,) = explain(harness, "r0").decisions
    assert (record.kind, record.ttft_s, record.ttft_at_most_s) == ("hold", None, None)


def test_the_winner_is_listed_even_where_all_are_equal() -> None:
    harness = CoreHarness(make_instances(100))
    winner = harness.assign("r0").instance
    (record,) = explain(harness, "r0").decisions
    assert winner in {candidate.instance for candidate in record.candidates}


def test_the_excluded_are_named_with_their_reasons() -> None:
    instances = make_instances(5)
    names = [instance.name for instance in instances]
    harness = CoreHarness(instances)
    harness.observe(names[0], healthy=False)
    harness.apply(DrainRequested(names[1], 50.0))
    harness.observe(names[2], kv_capacity_tokens=1050)
    harness.submit("r0", excluded_instances=(names[3],), epoch=2)
    (record,) = explain(harness, "r0").decisions
    because = {c.instance: c.excluded_because for c in record.candidates}
    assert because[names[0]] == "unhealthy"
    assert because[names[1]] == "draining"
    assert because[names[2]].startswith("no KV head room: 1029 tokens free")
    assert "tried before" in because[names[3]]
    assert because[names[4]] == "" and record.winner == names[4]
    assert record.excluded_total == 4
    assert all(not c.terms for c in record.candidates if c.excluded_because)


def test_an_explanation_tells_the_moment_of_the_decision() -> None:
    harness = CoreHarness(make_instances(2))
    harness.assign("r0")
    before = explain(harness, "r0")
    for i in range(1, 20):
        harness.assign(f"r{i}")
    assert explain(harness, "r0").decisions == before.decisions


def test_a_hold_is_explained_and_then_the_dispatch() -> None:
    harness = CoreHarness(make_instances(1), healthy=False)
    assert only(Hold, harness.submit("r0"))
    harness.now = 3.0
    harness.observe("chat-h100-0")
    harness.decide()
    hold, dispatch = explain(harness, "r0").decisions
    assert (hold.kind, dispatch.kind) == ("hold", "dispatch")
    assert "in service" in hold.reason
    assert hold.candidates[0].excluded_because == "starting: not seen yet"
    assert dispatch.queued_s == 3.0


def test_a_request_that_has_ended_is_still_explained() -> None:
    harness = CoreHarness()
    assigned = harness.start("r0")
    harness.apply(Progress("r0", 1, 10), Failed("r0", 1, assigned.instance, "connection", 12))
    assert explain(harness, "r0").state == "failed"
    harness.submit("r0", epoch=2, output_tokens=12, pool="chat")
    harness.apply(FirstToken("r0", 2, 0.1), Finished("r0", 2, 30, "stop"))
    explained = explain(harness, "r0")
    assert (explained.state, explained.output_tokens) == ("finished", 30)
    assert [(d.kind, d.epoch) for d in explained.decisions] == [("dispatch", 1), ("resume", 2)]


def test_only_so_many_ended_requests_are_kept() -> None:
    harness = CoreHarness(settings=CoreSettings(max_explanations=5))
    for i in range(12):
        harness.start(f"r{i}")
    assert harness.core.explain("r0", 0.0) is not None, "running ones are always kept"
    for i in range(12):
        harness.apply(Finished(f"r{i}", 1, 5, "stop"))
    kept = [i for i in range(12) if harness.core.explain(f"r{i}", 0.0)]
    assert kept == [7, 8, 9, 10, 11]
    assert harness.core.explain("never", 0.0) is None


def test_an_empty_id_asks_for_the_latest_decision() -> None:
    harness = CoreHarness()
    assert harness.core.explain("", 0.0) is None
    harness.assign("r0")
    harness.assign("r1")
    assert explain(harness, "").request_id == "r1"


def test_each_bar_is_named_as_what_it_is() -> None:
    """An instance kept for another, one of another revision and one tried before differ."""
    instances = make_instances(4)
    names = [instance.name for instance in instances]
    instances = (instances[0], replace(instances[1], revision="b"), *instances[2:])
    harness = CoreHarness(instances)
    for name in names[1:]:
        harness.observe(name, healthy=False)
    assert harness.start("r0").instance == names[0]
    harness.apply(Progress("r0", 1, 10), Failed("r0", 1, names[0], "connection", 12))
    for name in names[1:]:
        harness.observe(name)
    harness.submit("r0", epoch=2, output_tokens=12, pool="chat", excluded_instances=(names[0],))
    record = explain(harness, "r0").decisions[-1]
    because = {c.instance: c.excluded_because for c in record.candidates}
    assert because[names[0]] == "tried before"
    assert because[names[1]] == "of another model revision than the one that answers"
    assert record.winner in names[2:]


def test_an_instance_that_is_kept_for_another_is_told_so() -> None:
    harness = CoreHarness(make_instances(2))
    names = [instance.name for instance in harness.instances]
    for name in names:
        harness.observe(name, kv_capacity_tokens=8_000)
    for i in range(2):  # each leaves room for a small one, none for a large one
        harness.assign(f"r{i}", prompt_tokens=3000)
    assert only(Hold, harness.submit("large", prompt_tokens=7000))
    harness.now = 11.0
    (placed,) = only(Assign, harness.submit("small", prompt_tokens=300, arrived_at=11.0))
    assert placed.request_id == "small"
    because = {
        c.instance: c.excluded_because for c in explain(harness, "small").decisions[-1].candidates
    }
    kept = [reason for name, reason in because.items() if name != placed.instance]
    assert kept == ["kept for a request that has waited long"]


def test_a_hold_behind_others_says_that_there_is_room() -> None:
    harness = CoreHarness(make_instances(1), settings=CoreSettings(lookahead=0))
    harness.observe("chat-h100-0", kv_capacity_tokens=8_000)
    harness.assign("r0", prompt_tokens=3000)
    assert only(Hold, harness.submit("large", prompt_tokens=7000))
    assert only(Hold, harness.submit("small", prompt_tokens=300))
    (record,) = explain(harness, "small").decisions
    assert record.reason == (
        "requests of its tenant that have less slack go first to the room that there is"
    )
    assert record.excluded_total == 0
    assert [c.excluded_because for c in record.candidates] == ["others go first"]


def test_those_who_are_there_are_listed_before_slots_that_are_free() -> None:
    """A large pool that shrank: most slots are empty, and no instance has head room."""
    instances = make_instances(40)
    harness = CoreHarness(instances)
    harness.configure(instances[36:])
    for one in instances[36:]:
        harness.observe(one.name, healthy=False)
    assert only(Hold, harness.submit("r0"))
    (record,) = explain(harness, "r0").decisions
    assert {c.instance for c in record.candidates} == {one.name for one in instances[36:]}
    harness.observe(instances[39].name)
    harness.decide()
    dispatch = explain(harness, "r0").decisions[-1]
    assert {c.instance for c in dispatch.candidates} == {one.name for one in instances[36:]}


def test_what_was_expected_stands_beside_what_came() -> None:
    instances = tuple(replace(one, revision="4f2a") for one in make_instances(1))
    harness = CoreHarness(instances)
    assigned = harness.assign("r0")
    told = explain(harness, "r0")
    assert (told.revision, told.expected_output_tokens, told.cached_tokens) == ("4f2a", 100, None)
    harness.apply(FirstToken("r0", assigned.epoch, 0.1, cached_tokens=640))
    harness.apply(Finished("r0", assigned.epoch, 30, "stop"))
    told = explain(harness, "r0")
    assert (told.expected_output_tokens, told.output_tokens) == (100, 30)
    assert told.cached_tokens == 640
