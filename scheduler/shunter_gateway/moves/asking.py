"""A call that a client waits for: sent again while nobody answers, since engines take it twice."""

from collections.abc import Callable
from functools import partial

from shunter_gateway.lifecycle_ports import Clock, LifecycleLimits, Timer
from shunter_gateway.moves.ports import EngineMoves, MoveCall, MoveReply


class Asking:
    """The first answer counts; None once `kv_call_s` have passed, or all that was sent failed:
    where `spaced` not before `kv_again_s`, since calls fail at once while a channel backs off."""

    def __init__(
        self,
        engines: EngineMoves,
        clock: Clock,
        limits: LifecycleLimits,
        on_reply: Callable[[MoveReply | None], None],
        spaced: bool = False,
    ) -> None:
        self._engines = engines
        self._clock = clock
        self._again_s = limits.kv_again_s
        self._until_s = clock.time() + limits.kv_call_s
        self._on_reply = on_reply
        self._spaced = spaced
        self._under_way = 0
        self._over = False
        self._timer: Timer | None = None

    def send(self, address: str, request: MoveCall) -> None:
        left_s = self._until_s - self._clock.time()
        if self._over or left_s <= 0:
            return
        if left_s > self._again_s:
            again = partial(self._again, address, request)
            self._timer = self._clock.call_later(self._again_s, again)
        self._under_way += 1
        self._engines.call(address, request, left_s, self._heard)

    def stop(self) -> None:
        """Nothing is sent or heard any more. Idempotent."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, address: str, request: MoveCall) -> None:
        self._timer = None
        if self._under_way:
            self.send(address, request)
        else:
            self._tell(None)

    def _heard(self, reply: MoveReply | None) -> None:
        self._under_way -= 1
        if self._over or (reply is None and self._under_way):
            return
        if reply is None and self._spaced and self._timer is not None:
            return  # its time will tell
        self._tell(reply)

    def _tell(self, reply: MoveReply | None) -> None:
        self.stop()
        self._on_reply(reply)
