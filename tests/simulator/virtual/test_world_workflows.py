"""Stages of workflows are released by the ends of those before, in the world as in the plan."""

import numpy as np

from shunter_simulator.reports.simulation import build_report
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.workloads.build import Workload
from shunter_simulator.workloads.workflows import Stage, Workflow, WorkflowPlan


def workload(*workflows: Workflow) -> Workload:
    plan = WorkflowPlan(workflows)
    return Workload(plan.first(), plan, "a note")


STAGES = (
    Stage("plan", ((100, 20),), ("draft", "join")),
    Stage("draft", ((200, 50), (300, 10)), ("join",)),
    Stage("join", ((50, 5),)),
)


def test_a_stage_begins_when_the_last_call_of_the_one_before_has_ended() -> None:
    load = workload(Workflow("w", 1.0, STAGES, 30.0), Workflow("v", 2.0, STAGES))
    world = make_world(small_scenario(2), load.arrivals, load)
    results = world.run()
    check_world(world)
    assert results.notes == ("a note",)
    assert results.finished.all()
    stages, workflows = results.text("stage"), results.text("workflow")
    assert len(stages) == 8
    began, ended = results.columns["arrival_s"], results.columns["arrival_s"].copy()
    ended += results.columns["e2e_s"]
    for name in ("w", "v"):
        mine = workflows == name
        for before, after in (("plan", "draft"), ("draft", "join")):
            released = began[mine & (stages == after)]
            np.testing.assert_allclose(released, ended[mine & (stages == before)].max())
    report = build_report(results)
    assert report.workflows is not None
    assert (report.workflows.workflows, report.workflows.finished) == (2, 2)


def test_a_workflow_that_lost_a_call_goes_no_further() -> None:
    too_long = Stage("draft", ((5000, 10), (100, 10)))
    load = workload(Workflow("w", 0.0, (STAGES[0], too_long, STAGES[2])))
    world = make_world(small_scenario(1), load.arrivals, load)
    results = world.run()
    check_world(world)
    assert sorted(results.text("stage")) == ["draft", "draft", "plan"]
    assert sorted(results.text("outcome")) == ["context_length", "finished", "finished"]
    report = build_report(results)
    assert report.workflows is not None
    assert (report.workflows.workflows, report.workflows.finished) == (1, 0)
