"""Each model's tokenizer at the gateway, checked against its engines' own."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from shunter_gateway.ports import EngineAdapter
from shunter_gateway.tokenizer_checks import PROBE, Rechecks, TokenizerChecks
from shunter_gateway.topology import Pool, Topology
from shunter_text.detokenizer import StreamDecoder
from shunter_text.sources import TokenizerUnavailable, load_tokenizer
from shunter_text.tokenizer import Tokenizer

_log = structlog.get_logger(__name__)
_LOADED = 64  # models whose tokenizers are kept
_RETRY_S = 30.0


@dataclass(slots=True)
class _Entry:
    tokenizer: Tokenizer | None = None
    loaded: bool = False
    retry_at: float = 0.0
    task: "asyncio.Task[None] | None" = None
    eos: frozenset[int] = frozenset()


class TokenizerRegistry:
    """`Decoders` for the lifecycle and tokenizers for the edge. End it with `close()`."""

    def __init__(
        self,
        adapters: Mapping[str, EngineAdapter],
        load: Callable[[str], Tokenizer | None] = load_tokenizer,
        observe: Callable[[str, bool], None] = lambda pool, differs: None,
        rechecks: Rechecks | None = None,
    ) -> None:
        """`observe` and `rechecks`: see `TokenizerChecks`."""
        self._load = load
        self._time = asyncio.get_running_loop().time
        self._entries: dict[str, _Entry] = {}
        self._checks = TokenizerChecks(adapters, self.tokenizer, observe, rechecks)
        self._loading: set[asyncio.Task[Tokenizer | None]] = set()
        self._same: dict[frozenset[str], bool] = {}  # pairs of sources that were compared

    # ------------------------------------------------------------ for the edge

    async def tokenizer(self, source: str) -> Tokenizer | None:
        """Loads it in a thread at first; None where there is none (then: text level)."""
        entry = self._entry(source)
        if not entry.loaded:
            if entry.task is None:
                entry.task = asyncio.create_task(self._load_entry(source, entry))
            await asyncio.shield(entry.task)
        return entry.tokenizer

    def known(self, source: str) -> Tokenizer | None:
        """The same without waiting: None while it is not loaded."""
        entry = self._entries.get(source)
        return entry.tokenizer if entry is not None else None

    def update(self, topology: Topology) -> None:
        """Loads what is new and compares it with the engines'. A pool at zero is loaded too, as
        long as no other has to go for it: its first request is to wait for the engine only."""
        sources = {pool.model_source for pool in topology.pools.values() if pool.max_held}
        room = max(0, _LOADED - len(self._entries))
        for source in sorted(sources - self._entries.keys())[:room]:
            task = asyncio.create_task(self.tokenizer(source))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        self._checks.update(topology)

    async def settled(self) -> None:
        """Until all loads begun so far have ended and every engine was asked once."""
        await asyncio.gather(*self._loading)
        await self._checks.asked()

    async def close(self) -> None:
        await self._checks.close()
        tasks: list[asyncio.Task[Any]] = [*self._loading]
        tasks += [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ Decoders

    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        tokenizer = self.known(pool.model_source)
        return tokenizer.decoder(context_ids) if tokenizer is not None else None

    def eos_token_ids(self, pool: Pool) -> frozenset[int]:
        entry = self._entries.get(pool.model_source)
        return entry.eos if entry is not None else frozenset()

    def ids_within(self, pool: Pool, text: str) -> Sequence[int]:
        tokenizer = self.known(pool.model_source)
        return tokenizer.encode_within(text) if tokenizer is not None else ()

    def same_tokenizer(self, source: str, other: str) -> bool:
        """False too where one of them is not loaded."""
        if source == other:
            return True
        one, two = self.known(source), self.known(other)
        if one is None or two is None:
            return False
        key = frozenset((source, other))
        same = self._same.get(key)
        if same is None:
            same = self._same[key] = one.interchangeable(two, PROBE)
        return same

    def mismatch(self, pool: Pool) -> str:
        return self._checks.mismatch(pool.name)

    # ------------------------------------------------------------ details

    def _entry(self, source: str) -> _Entry:
        entry = self._entries.pop(source, None)
        if entry is None:
            entry = _Entry()
            while len(self._entries) >= _LOADED:  # the least lately used goes
                self._entries.pop(next(iter(self._entries)))
        elif not entry.loaded and entry.task is not None and entry.task.done():
            entry.task = None
        if entry.loaded and entry.retry_at and self._time() >= entry.retry_at:
            entry.loaded, entry.task = False, None
        self._entries[source] = entry
        return entry

    async def _load_entry(self, source: str, entry: _Entry) -> None:
        self._same.clear()
        try:
            entry.tokenizer = await asyncio.to_thread(self._load, source)
            entry.retry_at = 0.0
            if entry.tokenizer is not None:
                entry.eos = frozenset(entry.tokenizer.eos_token_ids)
        except TokenizerUnavailable as error:
            entry.retry_at = self._time() + _RETRY_S
            _log.warning("tokenizer_unavailable", model_source=source, reason=str(error))
        entry.loaded = True
