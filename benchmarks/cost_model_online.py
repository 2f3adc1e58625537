"""Experiment 7, online: real steps of the NumPy engine through the scheduler's own correction."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from shunter_api.accelerators import accelerator
from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.numpy_products import set_blas_threads
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.weights import LlamaShape, load_weights
from shunter_scheduler.core.costs import ProfileCost
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.costmodel import LinearRates, ModelShape, cost_model
from shunter_scheduler.costmodel.correction import Correction
from shunter_text.model_files import FetchOptions, model_file

BLOCK_TOKENS = 32
KV_TOKENS = 16_384
LONGEST = 1024  # tokens of a sequence
LARGEST_CHUNK = 256
LARGEST_BATCH = 16
UNSEEN = 60
FACTORS = {"as it is": 1.0, "a third": 1 / 3, "three times": 3.0}
SMALL = TinyShape(layers=8, width=256, heads=8, kv_heads=4, feed_forward=768, context_length=2048)

Features = tuple[float, float, float]
Step = tuple[Features, float]  # and its seconds


@dataclass(frozen=True)
class Online:
    """`error_after` observations: mean over unseen steps, median over orders."""

    model: str
    prior: str
    kind: str
    unseen: int
    error_after: dict[int, float]
    worst_order: float


def online(source: str, steps: int, orders: int, wall: bool) -> list[Online]:
    """Of prefills and decode steps, from each prior."""
    set_blas_threads(1)
    engine, name = _load(source)
    rng = np.random.default_rng(0)
    clock = time.perf_counter if wall else time.thread_time
    bench = Bench(engine, clock)
    timed: dict[str, list[Step]] = {"prefill": [], "decode": []}
    for _ in range(20):  # caches, page faults, clock rates
        bench.prefill(rng)
    for _ in range(steps + UNSEEN):
        timed["prefill"].append(bench.prefill(rng))
        timed["decode"].append(bench.decode(rng))
    prior = prior_of(engine.shape)
    results = []
    for label, factor in FACTORS.items():
        for kind, measured in timed.items():
            errors = [_errors(prior, factor, kind, measured, seed) for seed in range(orders)]
            after = {n: float(np.median([e[n] for e in errors])) for n in errors[0]}
            worst = max(e[max(e)] for e in errors)
            results.append(Online(name, label, kind, UNSEEN, after, worst))
    return results


def _load(source: str) -> tuple[LlamaModel, str]:
    fetch = FetchOptions.from_environ(os.environ)
    if source:
        weights = load_weights(model_file(source, fetch), fetch)
        return LlamaModel(weights, BLOCK_TOKENS, deterministic=True), source
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "small.gguf", shape=SMALL)
        weights = load_weights(path, FetchOptions(cache=Path(folder)))
        return LlamaModel(weights, BLOCK_TOKENS, deterministic=True), "small random model"


def prior_of(shape: LlamaShape) -> LinearRates:
    """The roofline of the same model on one core of a server's CPU, in the engine's 4 bytes."""
    known = ModelShape(
        name="numpy",
        layers=shape.layers,
        hidden=shape.width,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_size,
        mlp_hidden=shape.feed_forward,
        vocab=shape.vocabulary,
        tied_embeddings=shape.tied,
        dtype_bytes=4,
        kv_dtype_bytes=4,
    )
    return cost_model(known, accelerator("cpu")).linear()


class Bench:
    """Steps on one KV cache; what lies in it does not matter for their time."""

    def __init__(self, engine: LlamaModel, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._kv = engine.new_kv(KV_TOKENS // BLOCK_TOKENS)
        self._blocks = np.arange(KV_TOKENS // BLOCK_TOKENS)

    def prefill(self, rng: Generator) -> Step:
        """A chunk of a prompt, after some that was computed before."""
        new = int(rng.integers(8, LARGEST_CHUNK + 1))
        past = int(rng.integers(0, LONGEST - new + 1)) if rng.random() < 0.5 else 0
        span = Span(self._tokens(rng, new), past, self._table(0), wants_logits=True)
        return (1.0, new, new * (past + new / 2)), self._timed([span])

    def decode(self, rng: Generator) -> Step:
        batch = int(rng.integers(1, LARGEST_BATCH + 1))
        contexts = rng.integers(16, LONGEST, batch).tolist()
        spans = [
            Span(self._tokens(rng, 1), context, self._table(i), wants_logits=True)
            for i, context in enumerate(contexts)
        ]
        return (1.0, batch, float(sum(contexts))), self._timed(spans)

    def _timed(self, spans: Sequence[Span]) -> float:
        start = self._clock()
        self._engine.logits(self._kv, spans)
        return self._clock() - start

    def _tokens(self, rng: Generator, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return rng.integers(0, self._engine.shape.vocabulary, count)

    def _table(self, sequence: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        each = LONGEST // BLOCK_TOKENS
        return self._blocks[sequence * each : (sequence + 1) * each]


def _errors(
    prior: LinearRates, factor: float, kind: str, measured: Sequence[Step], seed: int
) -> dict[int, float]:
    """By number of observations. Observed and unseen steps are drawn anew for each order."""
    order = np.random.default_rng(seed).permutation(len(measured))
    unseen = [measured[i] for i in order[:UNSEEN]]
    observed = [measured[i] for i in order[UNSEEN:]]
    correction = _correction(prior, factor, kind)
    errors = {0: _mean_error(correction, unseen)}
    for count, (features, took_s) in enumerate(observed, 1):
        correction.observe(features, took_s, float(count))
        if count in (10, 50, len(observed)):
            errors[count] = _mean_error(correction, unseen)
    return errors


def _correction(prior: LinearRates, factor: float, kind: str) -> Correction:
    rates = LinearRates(*(factor * c for c in _coefficients(prior)))
    model = ProfileModel(ProfileCost(rates, KV_TOKENS, 0.0))
    return model.prefill if kind == "prefill" else model.decode


def _coefficients(rates: LinearRates) -> tuple[float, ...]:
    """In the order of `LinearRates`."""
    base_s, s_per_token, s_per_pair = rates.prefill
    return base_s, s_per_token, *rates.decode, s_per_pair


def _mean_error(correction: Correction, steps: Sequence[Step]) -> float:
    predicted = [float(np.dot(correction.published, features)) for features, _ in steps]
    ratios = np.array(predicted) / np.array([took_s for _, took_s in steps])
    return float(np.abs(ratios - 1).mean())
