"""`EngineMoves` of tests around the real one: something happens on the way."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from shunter_gateway.moves.ports import EngineMoves, MoveCall, MoveReply, Transfer
from shunter_proto.v1 import moves_pb2 as pb


@dataclass(slots=True)
class Probe:
    """An `EngineMoves` that does something once, at one point of a move: `Freeze sent` (nobody has
    heard of it yet), `Freeze answered`, `Freeze unheard` (the answer is lost), `stage 1`, ..."""

    inner: EngineMoves
    at: str
    action: Callable[[], None]

    def _pass(self, point: str) -> bool:
        here = point == self.at
        if here:
            self.at = ""
            self.action()
        return here

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        name = type(request).__name__.removesuffix("Request")

        def answered(reply: MoveReply | None) -> None:
            self._pass(f"{name} answered")
            on_reply(None if self._pass(f"{name} unheard") else reply)

        self._pass(f"{name} sent")
        self.inner.call(address, request, timeout_s, answered)

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> Transfer:
        def reported(report: pb.PullReport | None) -> None:
            if report is not None:
                self._pass(f"stage {report.stage}")
            on_report(report)

        return self.inner.pull(address, request, reported)


@dataclass(slots=True)
class Lossy:
    """An `EngineMoves` that loses one call, or the answers to it and to what is sent again until
    the first of them comes; what is swallowed is a call that nobody hears of, and no error
    either."""

    inner: EngineMoves
    call_lost: str = ""
    answer_lost: str = ""
    swallowed: str = ""

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        name = type(request).__name__.removesuffix("Request")
        if name == self.call_lost:
            self.call_lost = ""
            asyncio.get_running_loop().call_later(0.05, on_reply, None)
        elif name == self.swallowed:
            self.swallowed = ""
            asyncio.get_running_loop().call_later(timeout_s, on_reply, None)
        elif name == self.answer_lost:

            def answered(_: MoveReply | None) -> None:
                self.answer_lost = ""
                on_reply(None)

            self.inner.call(address, request, timeout_s, answered)
        else:
            self.inner.call(address, request, timeout_s, on_reply)

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> Transfer:
        return self.inner.pull(address, request, on_report)
