"""The simulated engine in real time: its steps take as long as the predicted GPU would."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from shunter_api.accelerators import accelerator
from shunter_engine.backend import SequenceRequest, SequenceSink, TokenEvent
from shunter_engine.between_steps import BetweenSteps
from shunter_engine.moves.layout import KvLayout, Part
from shunter_engine.options import DEFAULT_KV_BANDWIDTH_GB_S, EngineOptions
from shunter_engine.simulated_kv import Link, SimulatedKv
from shunter_scheduler.costmodel import cost_model, model_shape
from shunter_simulator.engine import (
    CacheListener,
    EngineStats,
    MovableBatch,
    SimulatedEngine,
    TokenRule,
    TokenSampling,
)
from shunter_simulator.engine.model import engine_config
from shunter_simulator.engine.values import NewToken

# Shorter waits are left to add up: a timer costs about as much as it would wait.
SHORTEST_SLEEP_S = 0.001
# A process that was held up catches up on this much; older delays are forgotten.
LONGEST_LAG_S = 0.25
T = TypeVar("T")


def simulated_backend(
    options: EngineOptions, word_ids: Sequence[int], eos_token_ids: Sequence[int]
) -> "SimulatedBackend":
    """Sized like the accelerator's memory. Raises `ValueError` (`UnknownModel`,
    `UnknownAccelerator`, `ModelDoesNotFit`)."""
    shape = model_shape(options.model)
    cost = cost_model(shape, accelerator(options.accelerator), options.tensor_parallel)
    context_length = min(options.context_length, shape.context_length)
    config = engine_config(cost, context_length, options.block_tokens)
    config = replace(
        config,
        max_num_seqs=options.max_num_seqs,
        max_waiting=options.max_waiting,
        yield_steps=options.yield_steps,
        max_batch_tokens=max(config.max_batch_tokens, options.max_num_seqs),
    )
    rule = TokenRule(allowed=tuple(word_ids), eos_token_id=eos_token_ids[0])
    engine = SimulatedEngine(config, cost, rule)
    return SimulatedBackend(
        engine, options.model_name, eos_token_ids, options.speed, options.kv_bandwidth_gb_s
    )


class SimulatedBackend:
    """`Backend` and `FaultyBackend`. One task runs the steps; it sleeps while nothing is to do."""

    def __init__(
        self,
        engine: SimulatedEngine,
        model_name: str,
        eos_token_ids: Sequence[int],
        speed: float = 1.0,
        kv_bandwidth_gb_s: float = DEFAULT_KV_BANDWIDTH_GB_S,
    ) -> None:
        """`speed`: how many simulated seconds pass in one; 0 or infinite: no waiting at all."""
        if speed < 0 or math.isnan(speed):
            raise ValueError(f"speed must be 0 or more, not {speed}")
        self.model_name = model_name
        self.context_length = engine.config.max_tokens_per_sequence
        self.eos_token_ids = tuple(eos_token_ids)
        self._engine = engine
        self._wall_s_per_s = 1 / speed if speed and math.isfinite(speed) else 0.0
        self._slowness = 1.0
        self._slowness_changed = asyncio.Event()
        self._stalled_until_s = 0.0
        self._sinks: dict[str, SequenceSink] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._between = BetweenSteps(self._wake.set)
        self._kv = SimulatedKv(engine.config.kv_blocks, engine.config.block_tokens)
        self._link = Link(self._wall_s_per_s / (kv_bandwidth_gb_s * 1e9))

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="simulated-engine")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._between.close()

    async def failed(self) -> None:
        """Returns only by raising what broke the step loop."""
        assert self._task is not None, "not started"
        await asyncio.shield(self._task)

    def submit(self, request: SequenceRequest, sink: SequenceSink) -> None:
        self._engine.add(request.spec(), _token_sampling(request))
        self._sinks[request.request_id] = sink
        self._wake.set()

    def abort(self, request_id: str) -> bool:
        """Also ends a sequence whose last step is under way."""
        self._engine.abort(request_id)
        self._wake.set()  # its memory may be what another one waits for
        return self._sinks.pop(request_id, None) is not None

    def watch_cache(self, listener: CacheListener) -> None:
        self._engine.watch_cache(listener)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    # ------------------------------------------------------------ `KvHost` of moves

    @property
    def batch(self) -> MovableBatch:
        return self._engine.batch

    def layout(self, tokenizer_digest: str) -> KvLayout:
        """Ids and positions travel; the real model's bytes count."""
        return KvLayout(
            revision=self._engine.cost.shape.name,
            tokenizer_digest=tokenizer_digest,
            dtype="uint32",
            block_tokens=self._engine.config.block_tokens,
            layers=1,
            kv_heads=1,
            head_dim=1,
            tensor_parallel=self._engine.cost.tensor_parallel,
            model_bytes_per_token=self._engine.cost.kv_bytes_per_token,
        )

    async def between_steps(self, action: Callable[[], T]) -> T:
        return await self._between.do(action)

    async def carry(self, tokens: int) -> None:
        await self._link.carry(tokens * self._engine.cost.kv_bytes_per_token)

    def read_kv(self, block_table: Sequence[int], token_ids: Sequence[int], part: Part) -> bytes:
        return self._kv.read(token_ids, part)

    def write_kv(self, block_table: Sequence[int], part: Part, data: bytes) -> None:
        self._kv.write(block_table, part, data)

    def adopt(self, reservation: str, request: SequenceRequest, sink: SequenceSink) -> None:
        held = self.batch.reservation(reservation)
        if held is None:
            raise KeyError(reservation)
        cached, end = held.cached_tokens, len(request.token_ids) - 1
        kv_ids = [*request.token_ids[:cached], *self._kv.ids(held.block_table, cached, end)]
        self._engine.adopt(reservation, request.spec(), _token_sampling(request), kv_ids)
        self._sinks[request.request_id] = sink
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    # ------------------------------------------------------------ faults

    def stall(self, seconds: float) -> None:
        self._stalled_until_s = asyncio.get_running_loop().time() + seconds
        self._wake.set()

    def slow(self, factor: float) -> None:
        self._slowness = factor
        self._slowness_changed.set()

    def shrink_kv(self, fraction: float) -> None:
        self._engine.shrink_kv(fraction)
        self._wake.set()

    async def _run(self) -> None:
        """Keeps an absolute schedule, so that late wake-ups do not add up."""
        now_s = asyncio.get_running_loop().time
        due_s = now_s()
        while True:
            self._between.run()
            step = self._engine.step()
            if step is None:
                self._wake.clear()
                await self._wake.wait()
                due_s = now_s()
                continue
            began_s = max(due_s, now_s() - LONGEST_LAG_S)
            due_s = await self._wait_out(began_s, step.duration_s * self._wall_s_per_s, now_s)
            due_s = await self._wait_for_stall(due_s, now_s)
            for token in step.outcome.tokens:
                self._deliver(token)

    async def _wait_out(self, began_s: float, wall_s: float, now_s: Callable[[], float]) -> float:
        """Waits for a step's end, which moves with `slow`. Gives when it was due."""
        while True:
            due_s = began_s + wall_s * self._slowness
            left_s = due_s - now_s()
            if left_s < SHORTEST_SLEEP_S:
                await asyncio.sleep(0)
                return due_s
            self._slowness_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._slowness_changed.wait()

    async def _wait_for_stall(self, due_s: float, now_s: Callable[[], float]) -> float:
        """Waits for the end of a stall, if there is one. Gives when the step was due."""
        while (left_s := self._stalled_until_s - now_s()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            due_s = now_s()
        return due_s

    def _deliver(self, token: NewToken) -> None:
        sink = self._sinks.get(token.request_id)
        if sink is None:
            return
        if token.finish_reason is not None:
            del self._sinks[token.request_id]
        # The token rule leaves no choice: every token has probability 1.
        sink.on_token(
            TokenEvent(
                token.token_id,
                token.finish_reason,
                logprob=0.0,
                top_logprobs=((token.token_id, 0.0),),
                cached_tokens=token.cached_tokens,
            )
        )


def _token_sampling(request: SequenceRequest) -> TokenSampling:
    sampling = request.sampling
    return TokenSampling(
        seed=sampling.seed if sampling.temperature > 0 else None,
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=frozenset(sampling.stop_token_ids),
    )
