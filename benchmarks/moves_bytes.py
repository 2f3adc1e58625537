"""Counts what a move carries from one engine to the other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llama_slots import LlamaSlots
from shunter_gateway.moves.ports import (
    EngineMoves,
    MoveCall,
    MoveReply,
    OnSlotReply,
    SlotReply,
    StoppedSlot,
    Transfer,
)
from shunter_proto.v1 import moves_pb2 as pb


@dataclass
class Counter:
    """Of the last transfer."""

    bytes: int = 0


class CountingMoves:
    """`EngineMoves` that counts bytes."""

    def __init__(self, counter: Counter, inner: EngineMoves) -> None:
        self._inner = inner
        self._counter = counter

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        self._inner.call(address, request, timeout_s, on_reply)

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> Transfer:
        def counted(report: pb.PullReport | None) -> None:
            if report is not None:
                self._counter.bytes = report.bytes
            on_report(report)

        return self._inner.pull(address, request, counted)


class CountingSlots(LlamaSlots):
    """The same for slots."""

    def __init__(self, counter: Counter, folder: Path, client: HttpClient) -> None:
        super().__init__(client, folder)
        self._counter = counter

    def save(self, stopped: StoppedSlot, name: str, on_reply: OnSlotReply) -> None:
        def counted(reply: SlotReply | None) -> None:
            if reply is not None:
                self._counter.bytes = reply.bytes
            on_reply(reply)

        super().save(stopped, name, counted)
