"""A request as its move by slots sees it."""

from collections.abc import Sequence
from typing import Protocol

from shunter_gateway.moves.moving import MovingRequest
from shunter_gateway.moves.rules import UNKNOWN_IDS
from shunter_gateway.moves.stop_copy import ENDING
from shunter_gateway.topology import Instance


class SlotMover(Protocol):
    """The mover of that request."""

    def switch_kv(self, destination: Instance, epoch: int, kv_lease: str) -> bool: ...
    def go_on_by_replay(self, destination: Instance, reason: str) -> None: ...
    def kv_failed(self, reason: str, replayable: bool) -> None: ...
    def expect_resumption(self) -> None:
        """The next first token says nothing of an engine's speed."""


class SlotHostOf:
    """A `SlotHost`."""

    def __init__(self, mover: SlotMover, life: MovingRequest, bears_gap: bool) -> None:
        """`bears_gap`: the source may be stopped although some ids are not known."""
        self._life = life
        self._bears_gap = bears_gap
        self._mover = mover
        self.switch_kv = mover.switch_kv
        self.go_on_by_replay = mover.go_on_by_replay
        self.kv_failed = mover.kv_failed

    @property
    def final_tokens(self) -> int:
        answer = self._life.answer
        return self._life.spec.prompt_tokens + max(answer.limit, answer.journal.output_tokens)

    @property
    def stop_refusal(self) -> str:
        answer = self._life.answer
        if self._life.finishing or answer.exhausted:
            return ENDING
        return UNKNOWN_IDS if answer.journal.has_gap and not self._bears_gap else ""

    def stop_source(self) -> None:
        self._life.call.end()

    def adopt(self, token_ids: Sequence[int]) -> str:
        journal = self._life.answer.journal
        if journal.adopt(token_ids):
            return ""
        return UNKNOWN_IDS if journal.has_gap else "other_request"

    def go_on_here(self, source: Instance) -> None:
        self._mover.expect_resumption()
        self._life.take_over(source)
