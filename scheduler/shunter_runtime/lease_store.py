"""Where a Lease is kept: the port, and one in memory."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Protocol

from shunter_runtime.lease import LeaseRecord


class LeaseUnavailable(Exception):
    """The Lease cannot be read or written now; whether a write went through is not known."""


class LeaseConflict(Exception):
    """The Lease is not as the writer saw it: nothing was written."""


class LeaseStore(Protocol):
    """One Lease. Every call raises `LeaseUnavailable`."""

    async def read(self, timeout_s: float) -> LeaseRecord | None:
        """None: there is none."""

    async def write(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        """Creates it where `record.version` is empty. Gives it back with its new version.
        Raises `LeaseConflict`."""

    def follow(self, version: str) -> AsyncGenerator[LeaseRecord | None]:
        """Each change after `version`, None for a deletion; ends by itself after minutes."""


@dataclass(slots=True)
class MemoryLease:
    """Shared by the candidates of one test. `down` makes it unavailable; `lose_answers` carries
    writes out and does not say so."""

    record: LeaseRecord | None = None
    down: bool = False
    lose_answers: bool = False
    reads: int = 0
    writes: int = 0
    _version: int = 0
    _history: list[LeaseRecord | None] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, timeout_s: float) -> LeaseRecord | None:
        self.reads += 1
        self._check()
        return self.record

    async def write(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        self.writes += 1
        self._check()
        if record.version != (self.record.version if self.record else ""):
            raise LeaseConflict
        self._version += 1
        self._set(replace(record, version=str(self._version)))
        if self.lose_answers:
            raise LeaseUnavailable("the answer was lost")
        assert self.record is not None
        return self.record

    def delete(self) -> None:
        self._set(None)

    async def follow(self, version: str) -> AsyncGenerator[LeaseRecord | None]:
        self._check()
        versions = [record.version if record else "" for record in self._history]
        told = versions.index(version) + 1
        while True:
            for record in self._history[told:]:
                told += 1
                yield record
            self._check()
            await self._changed.wait()

    def break_watches(self) -> None:
        """With `down` set: those who follow notice."""
        self._wake()

    def _set(self, record: LeaseRecord | None) -> None:
        self.record = record
        self._history.append(record)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _check(self) -> None:
        if self.down:
            raise LeaseUnavailable("the lease is out of reach")
