from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.workloads import Arrival, Stage, Workflow, WorkflowPlan, WorkloadError
from shunter_simulator.workloads.workflows import in_stages

TWO = Workflow(
    "q", 3.0, (Stage("ask", ((10, 1),), ("vote",)), Stage("vote", ((20, 2), (30, 3)))), 60.0
)


def test_a_stage_waits_for_all_calls_of_the_one_before() -> None:
    three = Workflow("q", 3.0, (*TWO.stages, Stage("end", ((5, 5),))))
    plan = WorkflowPlan([three])
    assert [(a.at_s, a.stage) for a in plan.first()] == [(3.0, "ask")]
    ready = plan.ready("q", "ask", 4.0)
    assert [(a.at_s, a.stage, a.prompt_tokens) for a in ready] == [
        (4.0, "vote", 20),
        (4.0, "vote", 30),
    ]
    assert plan.ready("q", "vote", 5.0) == []
    assert [a.stage for a in plan.ready("q", "vote", 6.0)] == ["end"]
    assert plan.unfinished == 1
    assert plan.ready("q", "end", 7.0) == []
    assert plan.unfinished == 0


def test_calls_carry_their_workflow_its_begin_its_deadline_and_what_is_left() -> None:
    (call,) = WorkflowPlan([TWO]).first()
    assert call == Arrival(
        3.0,
        10,
        1,
        workflow="q",
        stage="ask",
        stages_left=("vote",),
        workflow_at_s=3.0,
        workflow_deadline_s=60.0,
    )


@pytest.mark.parametrize(("workflow", "stage"), [("q", "vote"), ("other", "ask")])
def test_a_call_that_nobody_awaits_is_refused(workflow: str, stage: str) -> None:
    with pytest.raises(WorkloadError, match=f"no call of stage '{stage}' of '{workflow}'"):
        WorkflowPlan([TWO]).ready(workflow, stage, 4.0)


def test_nothing_follows_an_abandoned_workflow() -> None:
    plan = WorkflowPlan([TWO])
    plan.abandoned("q")
    plan.abandoned("q")  # its siblings may fail as well
    assert plan.unfinished == 0
    with pytest.raises(WorkloadError, match="awaited"):
        plan.ready("q", "ask", 4.0)


@pytest.mark.parametrize(
    ("workflows", "message"),
    [([TWO, TWO], "two workflows"), ([Workflow("e", 0.0, (Stage("a", ()),))], "without calls")],
)
def test_a_plan_that_cannot_be_followed_is_refused(workflows: list[Workflow], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        WorkflowPlan(workflows)


def test_neighbours_of_a_fan_out_step_form_one_stage_and_others_do_not() -> None:
    steps = ["look", "look", "try", "try", "mend", "vote", "try"]
    stages = in_stages([(s, 1, 1) for s in steps], frozenset({"try", "vote"}), ("look", "try"))
    assert [(s.name, len(s.calls)) for s in stages] == [
        ("look", 1),
        ("look", 1),
        ("try", 2),
        ("mend", 1),
        ("vote", 1),
        ("try", 1),
    ]
    assert [s.usually_left for s in stages] == [("try",), ("try",), (), (), (), ()]


@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=5),
    choice=st.randoms(use_true_random=False),
)
def test_in_any_order_of_ends_every_call_comes_once_and_no_stage_early(
    sizes: list[list[int]], choice: Random
) -> None:
    flows = [
        Workflow(f"w{i}", float(i), tuple(Stage(f"s{n}", ((1, 1),) * k) for n, k in enumerate(ks)))
        for i, ks in enumerate(sizes)
    ]
    plan = WorkflowPlan(flows)
    running, seen, now = plan.first(), 0, 100.0
    while running:
        now += 1
        done = running.pop(choice.randrange(len(running)))
        seen += 1
        released = plan.ready(done.workflow, done.stage, now)
        if released:  # no sibling of the stage before is still running
            assert all(a.workflow != done.workflow for a in running)
            assert {a.at_s for a in released} == {now}
        running += released
    assert seen == sum(map(sum, sizes))
    assert plan.unfinished == 0
