"""Builds a backend and its tokenizer as the options say."""

import asyncio
import os
from collections.abc import Callable

import structlog

from shunter_engine.options import BackendName, EngineOptions
from shunter_engine.server import EngineParts
from shunter_engine.simulated import simulated_backend
from shunter_text.gguf import GgufError
from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.sources import (
    TokenizerUnavailable,
    load_tokenizer,
    sim_tokenizer,
    sim_word_ids,
)


class EngineStartError(Exception):
    """The engine cannot start; the message names cause and remedy."""


async def load(options: EngineOptions) -> EngineParts:
    """A started backend and its tokenizer. Raises `EngineStartError`."""
    try:
        parts = await asyncio.to_thread(build, options)
        await parts.backend.start()
    except (TokenizerUnavailable, ModelFileError, GgufError, ValueError, OSError) as error:
        raise EngineStartError(str(error)) from error
    return parts


def build(options: EngineOptions) -> EngineParts:
    """Not started yet. Raises as the parts do: `load` makes one error of them."""
    return _BUILDERS[options.backend](options)


def _build_simulated(options: EngineOptions) -> EngineParts:
    tokenizer = sim_tokenizer()
    return EngineParts(
        simulated_backend(options, sim_word_ids(), tokenizer.eos_token_ids), tokenizer
    )


def _build_numpy(options: EngineOptions) -> EngineParts:
    from shunter_engine.numpy_backend import NumpyBackend, NumpyOptions

    if options.kv_tokens < options.block_tokens:
        raise ValueError(
            f"--kv-tokens {options.kv_tokens}: at least one block, {options.block_tokens}"
        )
    if options.blas_threads < 1:
        raise ValueError(f"--blas-threads {options.blas_threads}: at least 1")
    fetch = FetchOptions.from_environ(os.environ, ProgressLog())
    tokenizer = load_tokenizer(options.model, fetch)
    if tokenizer is None:
        raise ValueError(f"{options.model}: the numpy backend cannot read this kind of source")
    backend = NumpyBackend(
        NumpyOptions(
            source=options.model,
            model_name=options.model_name,
            fetch=fetch,
            deterministic=options.deterministic,
            context_length=options.context_length,
            block_tokens=options.block_tokens,
            max_num_seqs=options.max_num_seqs,
            max_waiting=options.max_waiting,
            yield_steps=options.yield_steps,
            kv_tokens=options.kv_tokens,
            blas_threads=options.blas_threads,
            array_module=options.array_module,
        )
    )
    return EngineParts(backend, tokenizer, embedder=backend)


_BUILDERS: dict[BackendName, Callable[[EngineOptions], EngineParts]] = {
    "simulated": _build_simulated,
    "numpy": _build_numpy,
}


class ProgressLog:
    """Tells in the log how far a download is, every tenth of it."""

    def __init__(self) -> None:
        self._told: tuple[str, int] = ("", 0)
        self._log = structlog.get_logger("shunter.engine")

    def __call__(self, what: str, done: int, total: int | None) -> None:
        tenth = 10 * done // total if total else 0
        if (what, tenth) != self._told:
            self._told = (what, tenth)
            self._log.info("loading", what=what, percent=10 * tenth if total else None)
