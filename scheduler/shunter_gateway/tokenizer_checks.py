"""Whether each pool's engines tokenise as the gateway does: else the pool goes as text, until they
agree again.

An engine is asked when it comes, when its pool's model changes, and again after a while as long as
it differs or does not answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from shunter_gateway.ports import EngineAdapter, EngineUnavailable
from shunter_gateway.topology import Instance, Pool, Topology
from shunter_text.tokenizer import Tokenizer, agrees

_log = structlog.get_logger(__name__)
PROBE = "Shunting: 3 wagons, track 12b.\n\tЭто — naïve café, 東京 42°C? 🚂🚃 don't  stop {}[];"
"""Words, digits, white space, accents, other scripts, symbols: where tokenizers differ."""
_MAX_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Rechecks:
    first_s: float = 30.0  # after an engine differed or did not answer; then twice as long, ...
    longest_s: float = 1800.0

    def after(self, tries: int) -> float:
        doublings = min(tries - 1, _MAX_DOUBLINGS)
        return min(self.first_s * 2.0**doublings, self.longest_s)


@dataclass(slots=True)
class _Engine:
    """One engine with the model that it was last seen with."""

    pool: Pool
    instance: Instance
    differs: bool = False
    tries: int = 0  # since it last agreed
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class TokenizerChecks:
    """`mismatch` for the lifecycle. End it with `close()`."""

    def __init__(
        self,
        adapters: Mapping[str, EngineAdapter],
        tokenizer: Callable[[str], Awaitable[Tokenizer | None]],
        observe: Callable[[str, bool], None],
        rechecks: Rechecks | None = None,
    ) -> None:
        """`tokenizer`: the gateway's own, by model source. `observe` hears of each pool that
        begins (True) and ceases to differ."""
        self._adapters = adapters
        self._tokenizer = tokenizer
        self._observe = observe
        self._rechecks = rechecks or Rechecks()
        self._engines: dict[str, _Engine] = {}
        self._reasons: dict[str, str] = {}  # by pool that differs

    def mismatch(self, pool: str) -> str:
        """Why tokens of this pool's engines cannot be trusted; empty if they can."""
        return self._reasons.get(pool, "")

    def update(self, topology: Topology) -> None:
        """Begins to ask engines that are new, or whose model is; forgets those that are gone."""
        wanted: dict[str, tuple[Pool, Instance]] = {}
        for instance in topology.instances.values():
            pool = topology.pools.get(instance.pool)
            if pool is not None:
                key = "|".join((instance.name, instance.address, pool.model_source, pool.revision))
                wanted[key] = (pool, instance)
        for key in self._engines.keys() - wanted.keys():
            self._forget(self._engines.pop(key))
        for key in wanted.keys() - self._engines.keys():
            engine = self._engines[key] = _Engine(*wanted[key])
            engine.task = asyncio.create_task(self._follow(engine))
        self._judge()

    async def asked(self) -> None:
        """Until every engine was asked at least once."""
        await asyncio.gather(*(engine.asked.wait() for engine in self._engines.values()))

    async def close(self) -> None:
        tasks = [engine.task for engine in self._engines.values() if engine.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, engine: _Engine) -> None:
        """Until the engine agrees."""
        while True:
            agreed = await self._agrees(engine)
            self._judge()
            engine.asked.set()
            if agreed:
                return
            engine.tries += 1
            await asyncio.sleep(self._rechecks.after(engine.tries))

    async def _agrees(self, engine: _Engine) -> bool:
        """True too where no ids will ever be sent. An engine that does not answer is asked again,
        and so is any where the gateway's own tokenizer could not be loaded."""
        pool, instance = engine.pool, engine.instance
        adapter = self._adapters.get(instance.engine_type)
        if adapter is None or not adapter.capabilities.token_ids:
            return True
        tokenizer = await self._tokenizer(pool.model_source)
        if tokenizer is None:
            return False
        try:
            theirs = await adapter.tokenize(instance.address, pool.model_names[0], PROBE)
        except EngineUnavailable:
            return False
        engine.differs = not agrees(tokenizer, theirs, PROBE)
        return not engine.differs

    def _forget(self, engine: _Engine) -> None:
        if engine.task is not None:
            engine.task.cancel()
        engine.asked.set()

    def _judge(self) -> None:
        """What holds of each pool now; tells what has changed."""
        differing: dict[str, str] = {}
        for engine in self._engines.values():
            if engine.differs and engine.pool.name not in differing:
                name, source = engine.instance.name, engine.pool.model_source
                reason = f"the tokenizer of {name} differs from that of {source}"
                differing[engine.pool.name] = reason
        before, self._reasons = self._reasons, differing
        for pool in sorted(differing.keys() - before.keys()):
            _log.warning("tokenizer_mismatch", pool=pool, reason=differing[pool])
            self._observe(pool, True)
        for pool in sorted(before.keys() - differing.keys()):
            _log.info("tokenizer_agrees_again", pool=pool)
            self._observe(pool, False)
