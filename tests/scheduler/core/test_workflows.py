"""Deadlines of workflows: shares of stages, what is learnt of them, and the order that follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.core.workflows import (
    FAR,
    MAX_STAGES,
    MAX_WORKFLOWS,
    StageDurations,
    Workflows,
)
from shunter_scheduler.domain.decisions import Assign
from shunter_scheduler.domain.events import Finished, MoveDone
from shunter_scheduler.domain.request import Request

STAGES = ("extract", "generate", "revise", "evaluate")


def taught(**seconds: float) -> Workflows:
    workflows = Workflows()
    for stage, value in seconds.items():
        for _ in range(20):
            workflows.durations.observe("chat", stage, "h100", value)
    return workflows


def stage(name: str, *left: str, deadline: float | None = 100.0, at: float = 0.0) -> Request:
    return make_request(
        f"{name}-{at}",
        arrived_at=at,
        workflow="w",
        stage=name,
        stages_left=left,
        workflow_deadline_at=deadline,
    )


def test_the_share_of_a_stage_is_that_of_its_duration() -> None:
    workflows = taught(extract=1.0, generate=6.0, revise=2.0, evaluate=1.0)
    first = workflows.stage_deadline_at(stage("extract", "generate", "revise", "evaluate"))
    assert first == pytest.approx(10.0)
    late = workflows.stage_deadline_at(stage("generate", "revise", "evaluate", at=40.0))
    assert late == pytest.approx(40.0 + 60.0 * 6 / 9)
    assert workflows.stage_deadline_at(stage("evaluate", at=70.0)) == pytest.approx(100.0)
    loop = workflows.stage_deadline_at(stage("revise", "revise", "evaluate", at=50.0))
    assert loop == pytest.approx(50.0 + 50.0 * 2 / 5)


def test_an_unknown_stage_counts_as_the_mean_of_the_known() -> None:
    workflows = taught(extract=2.0, generate=4.0)
    assert workflows.durations.seconds("chat", "new") == pytest.approx(3.0)
    assert workflows.stage_deadline_at(stage("new", "extract")) == pytest.approx(60.0)
    assert Workflows().stage_deadline_at(stage("a", "b", "c", "d")) == pytest.approx(25.0)
    assert Workflows().stage_deadline_at(stage("a", "b", deadline=None)) is None


def test_a_stage_of_another_model_is_known_by_its_name() -> None:
    workflows = taught(extract=1.0)
    workflows.durations.observe("judge", "evaluate", "l4", 9.0)
    assert workflows.stage_deadline_at(stage("extract", "evaluate")) == pytest.approx(10.0)


def test_the_mean_is_over_profiles() -> None:
    durations = StageDurations()
    for profile, seconds, times in (("h100", 1.0, 30), ("l4", 5.0, 3)):
        for _ in range(times):
            durations.observe("chat", "a", profile, seconds)
    assert durations.seconds("chat", "a") == pytest.approx(3.0)


@given(
    st.lists(st.floats(1.0, 2.0), min_size=20, max_size=60), st.floats(0.0, 1e6), st.integers(1, 3)
)
def test_outliers_are_cut(usual: list[float], outlier: float, times: int) -> None:
    durations = StageDurations()
    for value in usual:
        durations.observe("chat", "a", "h100", value)
    before = durations.seconds("chat", "a")
    for _ in range(times):
        durations.observe("chat", "a", "h100", outlier)
    after = durations.seconds("chat", "a")
    assert before * (1 - 0.15) <= after <= before * (1 + (FAR - 1) / 20) ** times


@given(
    st.lists(st.tuples(st.sampled_from(STAGES), st.floats(0.01, 100.0)), min_size=1, max_size=60),
    st.lists(st.sampled_from((*STAGES, "unseen")), max_size=6),
    st.floats(0.0, 200.0),
)
def test_a_stage_gets_part_of_what_is_left_and_the_parts_make_up_the_whole(
    seen: list[tuple[str, float]], left: list[str], now: float
) -> None:
    workflows = Workflows()
    for name, seconds in seen:
        workflows.durations.observe("chat", name, "h100", seconds)
    at = now
    for index, name in enumerate(left):
        due = workflows.stage_deadline_at(stage(name, *left[index + 1 :], at=at))
        assert due is not None and at <= due <= max(at, 100.0) + 1e-6
        at = due  # each stage ends just when it should
    assert not left or at == pytest.approx(max(now, 100.0))


def test_the_earliest_deadline_that_was_given_counts() -> None:
    workflows = Workflows()
    assert workflows.deadline_at(stage("a", deadline=50.0)) == 50.0
    assert workflows.deadline_at(stage("b", deadline=80.0, at=30.0)) == 50.0
    assert workflows.deadline_at(stage("c", deadline=None, at=31.0)) == 50.0
    assert workflows.deadline_at(stage("c", deadline=45.0, at=32.0)) == 45.0
    other = make_request("x", tenant="other", workflow="w", workflow_deadline_at=70.0)
    assert workflows.deadline_at(other) == 70.0, "an id is unique in its tenant"


def test_tables_are_bounded() -> None:
    workflows = Workflows()
    for n in range(MAX_WORKFLOWS + 10):
        workflows.deadline_at(make_request("r", workflow=f"w{n}", workflow_deadline_at=5.0))
    assert len(workflows._deadlines) == MAX_WORKFLOWS
    durations = workflows.durations
    for n in range(MAX_STAGES + 10):
        durations.observe("chat", f"s{n}", "h100", float(n + 1))
    assert len(durations._stages) == MAX_STAGES
    assert durations.seconds("chat", "s0") == pytest.approx(
        sum(range(11, MAX_STAGES + 11)) / MAX_STAGES
    ), "what is forgotten is out of the mean"


def test_the_core_learns_stages_and_orders_by_their_deadlines() -> None:
    settings = CoreSettings(head_room=HeadRoom(max_requests=1))
    harness = CoreHarness(make_instances(1), settings=settings)
    for name, seconds in (("short", 1.0), ("long", 9.0)):
        for n in range(10):
            harness.start(f"{name}{n}", stage=name, workflow=f"w{n}", arrived_at=harness.now)
            harness.now += seconds
            harness.apply(Finished(f"{name}{n}", 1, 10, "stop"))
    durations = harness.core._state.workflows.durations
    assert durations.seconds("chat", "short") == pytest.approx(1.0)
    assert durations.seconds("chat", "long") == pytest.approx(9.0)
    harness.start("busy", arrived_at=harness.now)
    ends = harness.now + 60.0
    for name, left in (("last", ()), ("first", ("long",))):
        harness.submit(
            name,
            arrived_at=harness.now,
            workflow=name,
            stage="short",
            stages_left=left,
            workflow_deadline_at=ends,
        )
    (placed,) = only(Assign, harness.after(Finished("busy", 1, 10, "stop")))
    assert placed.request_id == "first", "it has a tenth of the minute, the other all of it"
    explanation = harness.core.explain("first", harness.now)
    assert explanation is not None
    assert (explanation.workflow, explanation.stage) == ("first", "short")
    slack_s = explanation.decisions[-1].slack_s
    assert slack_s is not None and 0.0 < slack_s < 6.0


def test_a_stage_that_moved_between_instances_teaches_nothing() -> None:
    """Its time is neither profile's."""
    harness = CoreHarness(make_instances(2))
    harness.now = 1.0
    source = harness.start("r", stage="a", workflow="w").instance
    (destination,) = {one.name for one in harness.instances} - {source}
    harness.apply(MoveDone("r", 2, destination, True, "replay"))
    harness.now += 5.0
    harness.apply(Finished("r", 2, 10, "stop"))
    assert harness.core._state.workflows.durations.seconds("chat", "a") == 0.0
