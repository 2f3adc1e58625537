"""The replay rung: warm the destination while the source goes on, then switch.

The destination computes prompt and tokens so far into its prefix cache by a call for one token that
is thrown away. Meanwhile the source has generated more, so it is repeated for the difference until
little is missing. A warm-up owns nothing: until the switch any failure leaves the source alone.
"""

from dataclasses import replace
from typing import Protocol

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

    @property
    def generated_tokens(self) -> int: ...
    def warm_request(self, address: str) -> EngineRequest: ...
    def switch(self, destination: Instance) -> None: ...
    def failed(self, reason: str) -> None: ...


class ReplayMove:
    """One move, from the command to the switch. It is also the `TokenSink` of its warm-ups."""

    def __init__(
        self,
        host: MoveHost,
        adapter: EngineAdapter,
        destination: Instance,
        limits: LifecycleLimits,
    ) -> None:
        self._host = host
        self._adapter = adapter
        self._destination = destination
        self._limits = limits
        self._rounds = 0
        self._warmed_tokens = 0
        self._call: EngineCall | None = None
        self._over = False
        self.copied_bytes = 0  # nothing is: it is computed

    def start(self) -> None:
        if self._adapter.capabilities.prefix_caching:
            self._warm()
        else:
            self._switch()

    def abort(self) -> None:
        """The request ends or loses its source; the host reports it."""
        self._over = True
        if self._call is not None:
            self._call.abort()

    def expire(self) -> None:
        """The destination took too long."""
        if not self._over:
            self.abort()
            self._host.failed("warm-up timed out")

    # ------------------------------------------------------------ TokenSink of the warm-up

    def on_chunk(self, chunk: TokenChunk) -> None:
        pass

    def on_end(self) -> None:
        if self._over:
            return
        missing = self._host.generated_tokens - self._warmed_tokens
        if missing > self._limits.warm_delta_tokens and self._rounds < self._limits.warm_rounds:
            self._warm()
        else:
            self._switch()

    def on_failure(self, failure: EngineFailure) -> None:
        if not self._over:
            self._over = True
            self._host.failed(f"warm-up failed: {failure.reason}")

    # ------------------------------------------------------------ details

    def _warm(self) -> None:
        self._rounds += 1
        self._warmed_tokens = self._host.generated_tokens
        request = self._host.warm_request(self._destination.address)
        # Under an id of its own: the engine may still know the request's.
        warm_id = f"{request.request_id}-warm{self._rounds}"
        warm = replace(request, request_id=warm_id, max_tokens=1, min_tokens=0)
        self._call = self._adapter.start(warm, self)

    def _switch(self) -> None:
        self._over = True
        self._host.switch(self._destination)
