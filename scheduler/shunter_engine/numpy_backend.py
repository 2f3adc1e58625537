"""The `numpy` backend: a small real model behind the engine's server.

Batching, KV blocks and prefix caching are `MovableBatch`'s; a worker thread computes one step at
a time, and the event loop books it and hands out its tokens. A sequence that is aborted during a
step loses its blocks at once: what the step still writes there is overwritten before it is read,
since blocks are given out only between steps.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from shunter_engine.backend import (
    EngineStats,
    PromptTooLong,
    SequenceRequest,
    SequenceSink,
    TokenEvent,
)
from shunter_engine.between_steps import BetweenSteps
from shunter_engine.moves.layout import KvLayout, Part
from shunter_engine.numpy_model import Span
from shunter_engine.numpy_products import set_blas_threads
from shunter_engine.numpy_sampling import Context, Sampled
from shunter_engine.numpy_steps import Loaded, NumpyOptions, Pick, embed, load, step
from shunter_simulator.engine import CacheListener, MovableBatch, StepPlan

__all__ = ["NumpyBackend", "NumpyOptions"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
_RETRY_S = 0.01


@dataclass(slots=True)
class _Live:
    """A sequence between submit and its last token."""

    request: SequenceRequest
    sink: SequenceSink
    token_ids: list[int] = field(default_factory=list)
    produced: int = 0


class NumpyBackend:
    """Implements `backend.Backend`; `context_length` and `eos_token_ids` are known after `start`.

    An end-of-sequence token is handed out like any other, with finish reason `stop`.
    """

    def __init__(self, options: NumpyOptions) -> None:
        self.model_name = options.model_name
        self.context_length = options.context_length or 0
        self.eos_token_ids: tuple[int, ...] = ()
        self._options = options
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="numpy-engine")
        self._loaded: Loaded | None = None
        self._live: dict[str, _Live] = {}
        self._wake = asyncio.Event()
        self._between = BetweenSteps(self._wake.set)
        self._steps: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetches and loads the model. Raises `ModelFileError` and `GgufError`."""
        set_blas_threads(self._options.blas_threads)
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(self._worker, load, self._options)
        self._loaded = loaded
        self.eos_token_ids = loaded.eos_token_ids
        self.context_length = loaded.scheduler.config.context_length
        self._steps = loop.create_task(self._run(loaded), name="numpy-engine")
        log.info(
            "engine_loaded",
            model=self.model_name,
            deterministic=self._options.deterministic,
            kv_tokens=loaded.scheduler.config.kv_blocks * self._options.block_tokens,
        )

    async def stop(self) -> None:
        """Ends all sequences with `abort`. Idempotent."""
        if self._steps is not None:
            self._steps.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._steps
            self._steps = None
        self._between.close()
        await asyncio.to_thread(self._worker.shutdown)
        for request_id in list(self._live):
            live = self._live.pop(request_id)
            live.sink.on_token(TokenEvent(None, finish_reason="abort"))

    async def failed(self) -> None:
        """Returns only by raising what broke the step loop; a failed step does not."""
        assert self._steps is not None, "not started"
        await asyncio.shield(self._steps)

    def submit(self, request: SequenceRequest, sink: SequenceSink) -> None:
        self._check_ids(request)
        self._ready().scheduler.add(request.spec())
        self._begin(request, sink)

    def abort(self, request_id: str) -> bool:
        if self._live.pop(request_id, None) is None:
            return False
        self._ready().scheduler.abort(request_id)
        self._wake.set()
        return True

    def watch_cache(self, listener: CacheListener) -> None:
        self._ready().scheduler.watch_cache(listener)

    def stats(self) -> EngineStats:
        return self._ready().scheduler.stats()

    # ------------------------------------------------------------ `KvHost` of moves

    @property
    def batch(self) -> MovableBatch:
        return self._ready().scheduler

    def layout(self, tokenizer_digest: str) -> KvLayout:
        loaded = self._ready()
        shape = loaded.model.shape
        return KvLayout(
            revision=loaded.weights_digest,
            tokenizer_digest=tokenizer_digest,
            dtype="float32",
            block_tokens=loaded.model.block_tokens,
            layers=shape.layers,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_size,
        )

    async def between_steps(self, action: Callable[[], T]) -> T:
        return await self._between.do(action)

    async def carry(self, tokens: int) -> None:
        """The link is a real one."""

    def read_kv(self, block_table: Sequence[int], token_ids: Sequence[int], part: Part) -> bytes:
        blocks, layers = self._place(block_table, part)
        return self._ready().kv.read(blocks, part.tokens, layers).astype("<f4").tobytes()

    def write_kv(self, block_table: Sequence[int], part: Part, data: bytes) -> None:
        shape = self._ready().model.shape
        both = np.frombuffer(data, "<f4").reshape(
            2, part.layers, part.tokens, shape.kv_heads, shape.head_size
        )
        blocks, layers = self._place(block_table, part)
        self._ready().kv.load(blocks, layers, both)

    def adopt(self, reservation: str, request: SequenceRequest, sink: SequenceSink) -> None:
        self._check_ids(request)
        self._ready().scheduler.adopt(reservation, request.spec())
        self._begin(request, sink)

    def wake(self) -> None:
        self._wake.set()

    def _place(self, block_table: Sequence[int], part: Part) -> tuple[npt.NDArray[np.int64], slice]:
        size = self._ready().model.block_tokens
        first, end = part.first_token // size, -(-(part.first_token + part.tokens) // size)
        layers = slice(part.first_layer, part.first_layer + part.layers)
        return np.array(block_table[first:end], np.int64), layers

    # ------------------------------------------------------------ details

    def _check_ids(self, request: SequenceRequest) -> None:
        vocabulary = self._ready().model.shape.vocabulary
        if not all(0 <= token_id < vocabulary for token_id in request.token_ids):
            raise ValueError(f"token ids must be from 0 to {vocabulary - 1}")

    def _begin(self, request: SequenceRequest, sink: SequenceSink) -> None:
        self._live[request.request_id] = _Live(request, sink, list(request.token_ids))
        self._wake.set()

    async def embed(self, token_ids: list[int]) -> list[float]:
        """The mean of the last hidden states, of length 1. Raises `PromptTooLong`.

        `Embedder` of `text_handlers`.
        """
        loaded = self._ready()
        if not 0 < len(token_ids) <= self.context_length:
            raise PromptTooLong(f"{len(token_ids)} tokens; 1 to {self.context_length} can be read")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, embed, loaded.model, token_ids)

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("the engine has not started")
        return self._loaded

    async def _run(self, loaded: Loaded) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._between.run()
            plan = loaded.scheduler.plan()
            if plan is None:
                await self._idle(loaded.scheduler)
                continue
            try:
                spans, picks = self._inputs(plan)
                sampled = await loop.run_in_executor(self._worker, step, loaded, spans, picks)
                self._book(loaded.scheduler, plan, sampled)
            except Exception:  # the engine's outermost loop
                log.exception("step_failed", sequences=len(plan.chunks))
                self._fail(loaded.scheduler, plan)

    async def _idle(self, scheduler: MovableBatch) -> None:
        self._wake.clear()
        # A plan that only preempted leaves sequences that can go on without anybody's call.
        waiting = scheduler.stats().waiting > 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S if waiting else None):
                await self._wake.wait()

    def _inputs(self, plan: StepPlan) -> tuple[list[Span], list[Pick]]:
        """Copies of all that the worker reads: the scheduler's lists change with each abort."""
        spans = []
        picks = []
        for chunk in plan.chunks:
            spans.append(
                Span(
                    token_ids=np.array(chunk.token_ids, np.int64),
                    start=chunk.start,
                    blocks=np.array(chunk.block_table, np.int64),
                    wants_logits=chunk.samples,
                )
            )
            if chunk.samples:
                picks.append(self._pick(self._live[chunk.request_id]))
        return spans, picks

    def _pick(self, live: _Live) -> Pick:
        request = live.request
        banned: tuple[int, ...] = ()
        if live.produced < request.min_tokens:
            banned = self._stop_ids(request)
        outputs = request.output_offset + live.produced
        # A list that only grows while a step is computed may be read by the worker.
        return Pick(request, Context(live.token_ids, outputs, banned))

    def _stop_ids(self, request: SequenceRequest) -> tuple[int, ...]:
        eos = () if request.sampling.ignore_eos else self.eos_token_ids
        return (*eos, *request.sampling.stop_token_ids)

    def _book(
        self, scheduler: MovableBatch, plan: StepPlan, sampled: Mapping[str, Sampled]
    ) -> None:
        """Commits a step and hands out its tokens."""
        stopped: dict[str, Literal["stop", "length"]] = {
            request_id: "stop"
            for request_id, token in sampled.items()
            if (live := self._live.get(request_id)) is not None
            and token.token_id in self._stop_ids(live.request)
        }
        tokens = {request_id: token.token_id for request_id, token in sampled.items()}
        outcome = scheduler.commit(plan, tokens, stopped)
        for token in outcome.tokens:
            live = self._live.get(token.request_id)
            if live is None:
                continue  # aborted by another's sink just now
            live.token_ids.append(token.token_id)
            live.produced += 1
            if token.finish_reason is not None:
                del self._live[token.request_id]
            details = sampled[token.request_id]
            live.sink.on_token(
                TokenEvent(
                    token_id=token.token_id,
                    finish_reason=token.finish_reason,
                    logprob=details.logprob,
                    top_logprobs=details.top_logprobs,
                    cached_tokens=token.cached_tokens,
                )
            )

    def _fail(self, scheduler: MovableBatch, plan: StepPlan) -> None:
        for chunk in plan.chunks:
            live = self._live.pop(chunk.request_id, None)
            if live is not None:
                scheduler.abort(chunk.request_id)
                live.sink.on_token(TokenEvent(None, finish_reason="error"))
