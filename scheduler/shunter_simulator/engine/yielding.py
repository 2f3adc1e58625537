"""Answers of lower priority stand still while prompts of a higher one are computed.

An engine as vLLM's gives every answer a token in each step and goes on with the prompt that it has
begun, so that in a burst of urgent prompts a part of each step is somebody else's.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from shunter_simulator.engine.sequences import Sequence


def first_prompt(running: Items[Sequence], waiting: Items[Sequence]) -> Sequence | None:
    """Of the highest priority, those that are computed in part before those that wait."""
    first = next((s for s in running if s.pending > 1), None)
    if waiting and (first is None or waiting[0].order[0] < first.order[0]):
        return waiting[0]
    return first


@dataclass(slots=True)
class Yielding:
    """`steps`: at most so many in a row, then one for all. `lowest`: priority of those that get
    their token in the next step; None: all do."""

    steps: int
    done: int = 0
    lowest: int | None = None

    def stands_still(self, sequence: Sequence) -> bool:
        return self.lowest is not None and sequence.order[0] > self.lowest

    def decide(self, running: Items[Sequence], prompt: Sequence | None, places: int) -> None:
        """`prompt`: the first that is computed next, if there is one for sure; `places`: for how
        many answers beside it a step has tokens."""
        self.lowest, priority = None, 0 if prompt is None else prompt.order[0]
        answers = [s for s in running if s.pending == 1]
        lower = sum(s.order[0] > priority for s in answers)
        fits = len(answers) - lower < places
        if prompt is None or not lower or self.done >= self.steps or not fits:
            self.done = 0
            return
        self.done += 1
        self.lowest = priority
