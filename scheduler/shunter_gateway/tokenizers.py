"""Each model's tokenizer at the gateway, checked against its engines' own."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

import structlog

from shunter_gateway.ports import EngineAdapter, EngineUnavailable
from shunter_gateway.topology import Instance, Pool, Topology
from shunter_text.detokenizer import StreamDecoder
from shunter_text.sources import TokenizerUnavailable, load_tokenizer
from shunter_text.tokenizer import Tokenizer, agrees

_log = structlog.get_logger(__name__)
_LOADED = 64  # models whose tokenizers are kept
_RETRY_S = 30.0
PROBE = "Shunting: 3 wagons, track 12b.\n\tЭто — naïve café, 東京 42°C? 🚂🚃 don't  stop {}[];"
"""Words, digits, white space, accents, other scripts, symbols: where tokenizers differ."""


@dataclass(slots=True)
class _Entry:
    tokenizer: Tokenizer | None = None
    loaded: bool = False
    retry_at: float = 0.0
    task: "asyncio.Task[None] | None" = None
    eos: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Checks:
    agreed: set[str] = field(default_factory=set)  # addresses
    mismatch: dict[str, str] = field(default_factory=dict)  # pool -> reason
    pending: set["asyncio.Task[object]"] = field(default_factory=set)


class TokenizerRegistry:
    """`Decoders` for the lifecycle and tokenizers for the edge. End it with `close()`."""

    def __init__(
        self,
        adapters: Mapping[str, EngineAdapter],
        load: Callable[[str], Tokenizer | None] = load_tokenizer,
    ) -> None:
        self._adapters = adapters
        self._load = load
        self._time = asyncio.get_running_loop().time
        self._entries: dict[str, _Entry] = {}
        self._checks = _Checks()
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
        """Loads what is new and checks it against engines that were not asked yet. A pool at zero
        is loaded too: its first request is to wait for the engine only."""
        sources = {pool.model_source for pool in topology.pools.values() if pool.max_held}
        for source in sorted(sources - self._entries.keys()):
            self._begin(self.tokenizer(source))
        for instance in topology.instances.values():
            pool = topology.pools.get(instance.pool)
            key = _check_key(instance)
            if pool is None or key in self._checks.agreed:
                continue
            self._checks.agreed.add(key)
            self._begin(self._check(pool, instance))
        live = {_check_key(instance) for instance in topology.instances.values()}
        self._checks.agreed &= live

    def _begin(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(work)
        self._checks.pending.add(task)
        task.add_done_callback(self._checks.pending.discard)

    async def settled(self) -> None:
        """Until all checks begun so far have ended."""
        await asyncio.gather(*self._checks.pending)

    async def close(self) -> None:
        tasks = [*self._checks.pending]
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
        return self._checks.mismatch.get(pool.name, "")

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

    async def _check(self, pool: Pool, instance: Instance) -> None:
        adapter = self._adapters.get(instance.engine_type)
        tokenizer = await self.tokenizer(pool.model_source)
        if adapter is None or tokenizer is None or not adapter.capabilities.token_ids:
            return
        try:
            theirs = await adapter.tokenize(instance.address, pool.model_names[0], PROBE)
        except EngineUnavailable:
            self._checks.agreed.discard(_check_key(instance))  # asked again at the next topology
            return
        if not agrees(tokenizer, theirs, PROBE):
            reason = f"the tokenizer of {instance.name} differs from that of {pool.model_source}"
            self._checks.mismatch[pool.name] = reason
            _log.warning("tokenizer_mismatch", pool=pool.name, instance=instance.name)


def _check_key(instance: Instance) -> str:
    return f"{instance.name}@{instance.address}"
