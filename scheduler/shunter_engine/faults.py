"""Faults on demand, for tests and demonstrations of failover. Only with `--allow-faults`."""

import os
import signal
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, runtime_checkable

from msgspec import Meta, Struct

from shunter_engine.errors import ApiError, bad_request

MAX_SECONDS = 3600
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]


class FaultBody(Struct, kw_only=True):
    """`POST /faults`. Which fields a kind takes is in `docs/engine-api.md`."""

    kind: Literal["kill", "stall", "slow", "reject", "out-of-kv", "clear"]
    after_tokens: Annotated[int, Meta(ge=1)] | None = None
    seconds: Seconds | None = None
    factor: Annotated[float, Meta(ge=1, le=1e6)] | None = None
    count: Annotated[int, Meta(ge=1)] | None = None
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None


@runtime_checkable
class FaultyBackend(Protocol):
    """A backend whose speed and memory can be spoilt."""

    def stall(self, seconds: float) -> None:
        """No step begins and no token comes for so long; 0 ends it."""

    def slow(self, factor: float) -> None:
        """Steps last `factor` times as long; 1 ends it."""

    def shrink_kv(self, fraction: float) -> None:
        """Leaves `fraction` of the KV blocks usable; 1 restores all."""


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """The faults of one engine. `now_s` is a monotonic clock."""

    def __init__(
        self, backend: object, now_s: Callable[[], float], kill: Callable[[], None] = kill_self
    ) -> None:
        self._backend = backend
        self._now_s = now_s
        self._kill = kill
        self._tokens_left: int | None = None  # until the kill
        self._reject_until_s = 0.0
        self._rejects_left = 0

    def apply(self, fault: FaultBody) -> None:
        """Raises `ApiError` 400 for a missing field or a backend that cannot have the fault."""
        if fault.kind == "kill":
            self._tokens_left = fault.after_tokens
            if fault.after_tokens is None:
                self._kill()
        elif fault.kind == "reject":
            self._reject(fault)
        elif fault.kind == "clear":
            self._clear()
        else:
            self._spoil(fault, self._faulty_backend(fault.kind))

    def check_accepts(self) -> None:
        """Raises `ApiError` 429 while requests are to be rejected."""
        left_s = self._reject_until_s - self._now_s()
        if left_s > 0:
            raise ApiError(429, "injected fault: rejected", retry_after_s=left_s)
        if self._rejects_left:
            self._rejects_left -= 1
            raise ApiError(429, "injected fault: rejected", retry_after_s=1.0)

    def on_token(self) -> None:
        """Called after a token went out."""
        if self._tokens_left is None:
            return
        self._tokens_left -= 1
        if self._tokens_left <= 0:
            self._kill()

    def _reject(self, fault: FaultBody) -> None:
        if (fault.seconds is None) == (fault.count is None):
            raise bad_request("reject takes either seconds or count", "seconds")
        self._reject_until_s = self._now_s() + fault.seconds if fault.seconds else 0.0
        self._rejects_left = fault.count or 0

    def _clear(self) -> None:
        self._tokens_left = None
        self._reject_until_s, self._rejects_left = 0.0, 0
        if isinstance(self._backend, FaultyBackend):
            self._backend.stall(0)
            self._backend.slow(1)
            self._backend.shrink_kv(1)

    def _faulty_backend(self, kind: str) -> FaultyBackend:
        if not isinstance(self._backend, FaultyBackend):
            raise bad_request(f"this backend cannot have the fault {kind!r}", "kind")
        return self._backend

    def _spoil(self, fault: FaultBody, backend: FaultyBackend) -> None:
        match fault.kind:
            case "stall":
                backend.stall(_needed(fault.seconds, "seconds", fault.kind))
            case "slow":
                backend.slow(_needed(fault.factor, "factor", fault.kind))
            case "out-of-kv":
                backend.shrink_kv(fault.fraction or 0.0)


def _needed(value: float | None, field: str, kind: str) -> float:
    if value is None:
        raise bad_request(f"{kind} needs {field}", field)
    return value
