"""The replay rung: warm the destination while the source goes on, then switch.

The destination computes prompt and tokens so far into its prefix cache by a call for one token that
is thrown away. Meanwhile the source has generated more, so it is repeated for the difference until
little is missing. A warm-up owns nothing: until the switch any failure leaves the source alone.
"""

from dataclasses import replace
from typing import Protocol

from shunter_gateway.journal import TokenJournal
from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_gateway.ports import (
    EngineAdapter,
    EngineCall,
    EngineFailure,
    EngineRequest,
    TokenChunk,
)
from shunter_gateway.topology import Instance


class MoveHost(Protocol):
    """The request that moves."""

    answer: Answer

    def adapter_of(self, instance: Instance) -> EngineAdapter: ...
    def engine_request(
        self, address: str, epoch: int, max_tokens: int | None = None
    ) -> EngineRequest: ...
    def switch(self, destination: Instance) -> bool: ...
    def move_failed(self, reason: str) -> None: ...


class ReplayMove:
    """One move, from the command to the switch. It is also the `TokenSink` of its warm-ups."""

    def __init__(self, host: MoveHost, destination: Instance, limits: LifecycleLimits) -> None:
        self._host = host
        self._destination = destination
        self._limits = limits
        self._rounds = 0
        self._warmed_tokens = 0
        self._call: EngineCall | None = None
        self._over = False

    @property
    def _journal(self) -> TokenJournal:
        return self._host.answer.journal

    def start(self) -> None:
        if self._host.adapter_of(self._destination).capabilities.prefix_caching:
            self._warm()
        else:
            self._switch()

    def abort(self) -> None:
        """The request ends or loses its source; the host reports it."""
        self._over = True
        if self._call is not None:
            self._call.abort()

    # ------------------------------------------------------------ TokenSink of the warm-up

    def on_chunk(self, chunk: TokenChunk) -> None:
        pass

    def on_end(self) -> None:
        if self._over:
            return
        missing = self._journal.output_tokens - self._warmed_tokens
        if missing > self._limits.warm_delta_tokens and self._rounds < self._limits.warm_rounds:
            self._warm()
        else:
            self._switch()

    def on_failure(self, failure: EngineFailure) -> None:
        if not self._over:
            self._over = True
            self._host.move_failed(f"warm-up failed: {failure.reason}")

    # ------------------------------------------------------------ details

    def _warm(self) -> None:
        self._rounds += 1
        self._warmed_tokens = self._journal.output_tokens
        request = self._host.engine_request(
            self._destination.address, self._journal.epoch, max_tokens=1
        )
        adapter = self._host.adapter_of(self._destination)
        self._call = adapter.start(_as_warm_up(request, self._rounds), self)

    def _switch(self) -> None:
        self._over = True
        self._host.switch(self._destination)


def _as_warm_up(request: EngineRequest, round_: int) -> EngineRequest:
    """Under an id of its own: the engine may still know the request's."""
    return replace(request, request_id=f"{request.request_id}-warm{round_}")
