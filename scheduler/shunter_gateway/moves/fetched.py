"""The rung `kv` where engines cannot freeze one request (vLLM): a replay whose prefix is fetched.

The destination fetches the blocks into a store beside its KV cache while the source goes on
decoding; the calls that warm it load them from there and compute only what is missing. From then on
it is a replay, and so is all that can go wrong: what has been fetched owns nothing, and what has
not is computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from shunter_gateway.lifecycle_ports import LifecycleLimits, Timer
from shunter_gateway.moves.kv import RULES, KvAround
from shunter_gateway.moves.kv_ends import KvEnds, refusal_name, unheard
from shunter_gateway.moves.ports import MoveCall, MoveReply, Transfer
from shunter_gateway.moves.replay import MoveHost, ReplayMove
from shunter_gateway.ports import EngineAdapter, EngineRequest
from shunter_gateway.topology import Instance
from shunter_proto.v1 import moves_pb2 as pb


class FetchHost(MoveHost, Protocol):
    """The request that moves."""

    def token_ids(self) -> tuple[int, ...]:
        """Prompt and generated, as far as they have come."""

    def kv_failed(self, reason: str, replayable: bool) -> None:
        """Nothing was fetched. The source goes on, and may be replayed at the same destination."""


class FetchedMove:
    """One move, from the command to the switch. It is the `MoveHost` of its replay."""

    def __init__(
        self, host: FetchHost, adapter: EngineAdapter, ends: KvEnds, around: KvAround
    ) -> None:
        self._host = host
        self._adapter = adapter
        self._ends = ends
        self._around = around
        self._offer = pb.OfferReply()
        self._pull: Transfer | None = None
        self._replay: ReplayMove | None = None
        self._timer: Timer | None = None
        self._over = False
        self.copied_bytes = 0

    def start(self) -> None:
        ends, limits = self._ends, self._limits
        self._wait(limits.kv_copy_s, partial(self._give_up, "copy took too long"))
        self._send(ends.source, ends.offer(ends.epoch, limits.kv_lease_s), self._on_offer)

    def abort(self) -> None:
        """The request ends or loses its source; the host reports it. Idempotent."""
        self._end()
        if self._replay is not None:
            self._replay.abort()

    def expire(self) -> None:
        """It took too long."""
        if self._replay is not None:
            self._replay.expire()
        else:
            self._give_up("copy took too long")

    # ------------------------------------------------------------ fetching

    def _on_offer(self, reply: MoveReply | None) -> None:
        if not isinstance(reply, pb.OfferReply) or reply.refusal:
            self._give_up(_why("offer", reply))
            return
        self._offer, ends = reply, self._ends
        known = self._host.token_ids()
        prepare = ends.prepare(ends.epoch, self._limits.kv_lease_s, reply, known)
        self._send(ends.destination, prepare, self._on_prepare)

    def _on_prepare(self, reply: MoveReply | None) -> None:
        if not isinstance(reply, pb.PrepareReply) or reply.refusal:
            self._give_up(_why("prepare", reply))
            return
        pull = self._ends.pull(reply.kv_lease, self._offer)
        destination = self._ends.destination.moves_address
        self._pull = self._around.engines.pull(destination, pull, self._on_report)

    def _on_report(self, report: pb.PullReport | None) -> None:
        """Stages go on until the switch; once a replay has begun, what fails is computed."""
        if report is not None:
            self.copied_bytes = max(self.copied_bytes, report.bytes)
        if self._over or self._replay is not None:
            return
        if report is None or report.refusal:
            reason = f"pull refused: {refusal_name(report.refusal)}" if report else "pull broke off"
            self._give_up(reason)
            return
        behind = report.source_tokens - report.tokens
        if behind < 2 * self._offer.manifest.block_tokens or report.stage >= RULES.max_stages:
            self._warm()

    def _warm(self) -> None:
        self._wait(self._limits.warm_timeout_s, self.expire)
        self._replay = ReplayMove(self, self._adapter, self._ends.destination, self._limits)
        self._replay.start()

    # ------------------------------------------------------------ MoveHost of the replay

    @property
    def generated_tokens(self) -> int:
        return self._host.generated_tokens

    def warm_request(self, address: str) -> EngineRequest:
        return self._host.warm_request(address)

    def switch(self, destination: Instance) -> None:
        self._end()
        self._host.switch(destination)

    def failed(self, reason: str) -> None:
        self._end()
        self._host.failed(reason)

    # ------------------------------------------------------------ details

    def _give_up(self, reason: str) -> None:
        if not self._over:
            self._end()
            self._host.kv_failed(reason, replayable=True)

    def _end(self) -> None:
        """Both sides forget it; where they do not hear of it, their leases end."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pull is not None:
            self._pull.cancel()
        ends = self._ends
        release = pb.ReleaseRequest(move_id=ends.move_id, epoch=ends.epoch)
        self._around.engines.call(
            ends.source.moves_address, release, self._limits.kv_call_s, unheard
        )
        abort = pb.AbortRequest(move_id=ends.move_id, epoch=ends.epoch + 1)  # a late Prepare, too
        self._around.engines.call(
            ends.destination.moves_address, abort, self._limits.kv_call_s, unheard
        )

    def _send(
        self, to: Instance, request: MoveCall, on_reply: Callable[[MoveReply | None], None]
    ) -> None:
        def heard(reply: MoveReply | None) -> None:
            if not self._over:
                on_reply(reply)

        self._around.engines.call(to.moves_address, request, self._limits.kv_call_s, heard)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._around.clock.call_later(seconds, then)

    @property
    def _limits(self) -> LifecycleLimits:
        return self._around.limits


def _why(call: str, reply: MoveReply | None) -> str:
    return f"{call} not answered" if reply is None else f"{call} refused: {_refusal(reply)}"


def _refusal(reply: MoveReply) -> str:
    return "" if isinstance(reply, pb.StateReply) else refusal_name(reply.refusal)
