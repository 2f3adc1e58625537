"""Workflows: calls in stages, each stage released when the one before is done."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True)
class Stage:
    """Calls that are released together: (prompt tokens, output tokens) of each. `usually_left`
    are the stages that a client would expect after it."""

    name: str
    calls: tuple[tuple[int, int], ...]
    usually_left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    name: str
    at_s: float
    stages: tuple[Stage, ...]
    deadline_s: float | None = None
    """After `at_s`, for the whole of it."""


@dataclass(slots=True)
class _Open:
    workflow: Workflow
    stage: int
    unfinished: int


class WorkflowPlan:
    """Says what a finished call makes ready. It counts, so each run needs one of its own; it
    forgets a workflow when that ends."""

    def __init__(self, workflows: Iterable[Workflow]) -> None:
        """Raises `WorkloadError` for a name used twice and for stages without calls."""
        self._open: dict[str, _Open] = {}
        for workflow in workflows:
            if workflow.name in self._open:
                raise WorkloadError(f"two workflows are called {workflow.name!r}")
            if not workflow.stages or not all(stage.calls for stage in workflow.stages):
                raise WorkloadError(f"workflow {workflow.name!r} has a stage without calls")
            self._open[workflow.name] = _Open(workflow, 0, len(workflow.stages[0].calls))

    @property
    def unfinished(self) -> int:
        """How many workflows have not ended."""
        return len(self._open)

    def first(self) -> list[Arrival]:
        """The first stages of all, in order of time."""
        opened = sorted(self._open.values(), key=lambda o: o.workflow.at_s)
        return [a for o in opened for a in _calls(o.workflow, 0, o.workflow.at_s)]

    def ready(self, workflow: str, stage_done: str, now: float) -> list[Arrival]:
        """A call of `stage_done` has finished: the next stage's calls if it was the last of its
        siblings, to arrive at `now`. Raises `WorkloadError` for a call that is not awaited."""
        entry = self._open.get(workflow)
        if entry is None or entry.workflow.stages[entry.stage].name != stage_done:
            raise WorkloadError(f"no call of stage {stage_done!r} of {workflow!r} is awaited")
        entry.unfinished -= 1
        if entry.unfinished:
            return []
        entry.stage += 1
        if entry.stage == len(entry.workflow.stages):
            del self._open[workflow]
            return []
        entry.unfinished = len(entry.workflow.stages[entry.stage].calls)
        return _calls(entry.workflow, entry.stage, now)

    def abandoned(self, workflow: str) -> None:
        """A call failed for good: nothing more of the workflow comes."""
        self._open.pop(workflow, None)


def _calls(workflow: Workflow, number: int, now: float) -> list[Arrival]:
    stage = workflow.stages[number]
    return [
        Arrival(
            now,
            prompt_tokens,
            output_tokens,
            workflow=workflow.name,
            stage=stage.name,
            stages_left=stage.usually_left,
            workflow_at_s=workflow.at_s,
            workflow_deadline_s=workflow.deadline_s,
        )
        for prompt_tokens, output_tokens in stage.calls
    ]


def in_stages(
    calls: Sequence[tuple[str, int, int]], fan_out: frozenset[str], usual: Sequence[str]
) -> tuple[Stage, ...]:
    """Calls (step, prompt tokens, output tokens) in order, as stages: neighbours of one step in
    `fan_out` form one, every other call is a stage of its own. `usual` is the standard sequence
    of steps, from which the hints of what is left are taken."""
    stages: list[Stage] = []
    position = 0
    for step, prompt_tokens, output_tokens in calls:
        call = (prompt_tokens, output_tokens)
        if stages and step in fan_out and stages[-1].name == step:
            last = stages[-1]
            stages[-1] = Stage(step, (*last.calls, call), last.usually_left)
            continue
        if step in usual[position:]:
            position = list(usual).index(step, position) + 1
        stages.append(Stage(step, (call,), tuple(usual[position:])))
    return tuple(stages)
