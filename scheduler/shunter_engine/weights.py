"""A Llama-family GGUF's weights as float32 matrices, laid out for row-major products.

They are dequantised once into a flat file of the cache and mapped from there: a second start takes
no time, and engines on one machine share the pages.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from shunter_engine.numpy_products import F32, BlockedMatrix, block_shape, blocked
from shunter_text.gguf import GgufError, GgufHeader, read_header
from shunter_text.model_files import FetchOptions, ModelFileError, exclusive

_LAYOUT = "f32-2"  # part of the cache's key: grows with each change of `_layout` or `_convert`
_ALIGNMENT = 64  # floats

Layout = dict[str, tuple[int, ...]]  # matrices as [inputs, outputs], kept in blocks


@dataclass(frozen=True, slots=True)
class LlamaShape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context_length: int
    rope_base: float
    norm_epsilon: float
    tied: bool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Matrices are [input, output]. The norms before `qkv` and `gate_up` are multiplied into them,
    as is the scale of the attention's scores into the queries' part. Rotated channels of a head
    stand half and half instead of in pairs."""

    qkv: BlockedMatrix  # [width, (heads + 2 kv_heads) * head_size]
    attention_out: BlockedMatrix
    gate_up: BlockedMatrix  # [width, 2 feed_forward]
    down: BlockedMatrix


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    shape: LlamaShape
    layers: tuple[LayerWeights, ...]
    embedding: BlockedMatrix  # [width, vocabulary]
    head: BlockedMatrix  # [width, vocabulary]; the embedding itself where they are tied
    output_norm: F32
    rope_factors: F32  # [head_size / 2]: divisors of the rotation's frequencies
    digest: str  # of the file


def load_weights(path: Path, options: FetchOptions) -> LlamaWeights:
    """Reads a GGUF file, dequantising it on first use. Raises `GgufError`, `ModelFileError`."""
    header = read_header(path)
    shape = shape_of(header)
    digest = _digest(path)
    cached = options.cache / "weights" / f"{digest}-{_LAYOUT}.bin"
    if not _is_whole(cached, shape):
        with exclusive(cached.with_suffix(".lock"), options):
            if not _is_whole(cached, shape):
                _write(header, shape, cached, options)
    # A plain array over the map: slices of a memmap cost several times as much.
    flat = np.asarray(np.memmap(cached, np.float32, mode="r"))
    return _assemble(shape, _views(_layout(shape), flat), digest)


def _is_whole(cached: Path, shape: LlamaShape) -> bool:
    return cached.is_file() and cached.stat().st_size == 4 * _floats(_layout(shape))


def shape_of(header: GgufHeader) -> LlamaShape:
    """Raises `GgufError` for anything this engine would compute wrongly."""
    meta, path = header.metadata, header.path
    if meta.get("general.architecture") != "llama":
        raise GgufError(
            f"{path}: general.architecture is {meta.get('general.architecture')!r}; the numpy "
            "engine runs 'llama' models only"
        )

    def number(key: str, default: float | None = None) -> float:
        value = meta.get(f"llama.{key}", default)
        if not isinstance(value, int | float) or value <= 0:
            raise GgufError(f"{path}: llama.{key} is {value!r}")
        return value

    heads, width = int(number("attention.head_count")), int(number("embedding_length"))
    shape = LlamaShape(
        layers=int(number("block_count")),
        width=width,
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_size=int(number("attention.key_length", width // heads)),
        feed_forward=int(number("feed_forward_length")),
        vocabulary=_tensor_rows(header, "token_embd.weight"),
        context_length=int(number("context_length")),
        rope_base=number("rope.freq_base", 10000.0),
        norm_epsilon=number("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in header.tensors,
    )
    rotated = number("rope.dimension_count", shape.head_size)
    scaling = meta.get("llama.rope.scaling.type", "none")
    biases = [name for name in header.tensors if name.endswith(".bias")]
    if rotated != shape.head_size or scaling != "none" or biases or "llama.expert_count" in meta:
        raise GgufError(
            f"{path}: not a plain Llama (rotated channels {rotated:g} of {shape.head_size}, rope "
            f"scaling {scaling!r}, {len(biases)} biases): the numpy engine cannot run it"
        )
    return shape


def _tensor_rows(header: GgufHeader, name: str) -> int:
    if name not in header.tensors:
        raise GgufError(f"{header.path}: no tensor {name}")
    return header.tensors[name].shape[0]


def _layout(shape: LlamaShape) -> Layout:
    """Names and shapes of the flat file's matrices, in order."""
    queries, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layout: Layout = {"embedding": (shape.width, shape.vocabulary)}
    if not shape.tied:
        layout["head"] = (shape.width, shape.vocabulary)
    layout |= {"output_norm": (shape.width,), "rope_factors": (shape.head_size // 2,)}
    for layer in range(shape.layers):
        layout |= {
            f"{layer}.qkv": (shape.width, queries + 2 * kv),
            f"{layer}.attention_out": (queries, shape.width),
            f"{layer}.gate_up": (shape.width, 2 * shape.feed_forward),
            f"{layer}.down": (shape.feed_forward, shape.width),
        }
    return layout


def _views(layout: Layout, flat: F32) -> dict[str, F32]:
    views, at = {}, 0
    for name, shape in layout.items():
        stored = _stored_shape(shape)
        size = int(np.prod(stored))
        views[name] = flat[at : at + size].reshape(stored)
        at += _aligned(size)
    return views


def _floats(layout: Layout) -> int:
    return sum(_aligned(int(np.prod(_stored_shape(shape)))) for shape in layout.values())


def _stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return block_shape(*shape) if len(shape) == 2 else shape


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _assemble(shape: LlamaShape, views: dict[str, F32], digest: str) -> LlamaWeights:
    layout = _layout(shape)

    def matrix(name: str) -> BlockedMatrix:
        inputs, outputs = layout[name]
        return BlockedMatrix(views[name], inputs, outputs)

    layers = tuple(
        LayerWeights(*(matrix(f"{layer}.{name}") for name in LayerWeights.__dataclass_fields__))
        for layer in range(shape.layers)
    )
    embedding = matrix("embedding")
    return LlamaWeights(
        shape=shape,
        layers=layers,
        embedding=embedding,
        head=embedding if shape.tied else matrix("head"),
        output_norm=views["output_norm"],
        rope_factors=views["rope_factors"],
        digest=digest,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _write(header: GgufHeader, shape: LlamaShape, target: Path, options: FetchOptions) -> None:
    layout = _layout(shape)
    part = target.with_suffix(".part")
    matrices = zip(layout.items(), _convert(header, shape), strict=True)
    try:
        with part.open("wb") as file:
            for done, ((name, expected), matrix) in enumerate(matrices, start=1):
                if matrix.shape != expected:
                    raise GgufError(f"{header.path}: {name} is {matrix.shape}, not {expected}")
                stored = blocked(matrix) if matrix.ndim == 2 else matrix
                file.write(stored.astype("<f4").tobytes())
                file.write(bytes(4 * (_aligned(stored.size) - stored.size)))
                options.progress(f"dequantising {header.path.name}", done, len(layout))
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelFileError(
            f"{part}: {error}; the weights take {4 * _floats(layout) >> 20} MiB there: set "
            "SHUNTER_CACHE to a folder with room"
        ) from error


def _convert(header: GgufHeader, shape: LlamaShape) -> Iterator[F32]:
    """The flat file's matrices in its order, one at a time to keep memory small."""

    def load(name: str) -> F32:
        return _dequantise(header, f"{name}.weight")

    yield load("token_embd").T
    if not shape.tied:
        yield load("output").T
    yield load("output_norm")
    half = shape.head_size // 2
    has_factors = "rope_freqs.weight" in header.tensors
    yield load("rope_freqs") if has_factors else np.ones(half, np.float32)
    scale = np.float32(shape.head_size**-0.5)
    for layer in range(shape.layers):
        at = f"blk.{layer}"
        queries = _halves(load(f"{at}.attn_q"), shape.head_size) * scale
        keys = _halves(load(f"{at}.attn_k"), shape.head_size)
        qkv = np.concatenate([queries, keys, load(f"{at}.attn_v")])
        yield (qkv * load(f"{at}.attn_norm")).T
        yield load(f"{at}.attn_output").T
        gate_up = np.concatenate([load(f"{at}.ffn_gate"), load(f"{at}.ffn_up")])
        yield (gate_up * load(f"{at}.ffn_norm")).T
        yield load(f"{at}.ffn_down").T


def _halves(matrix: F32, head_size: int) -> F32:
    """GGUF keeps the two channels that rotate together side by side; here all first ones of a
    head come before all second ones."""
    pairs = matrix.reshape(-1, head_size // 2, 2, matrix.shape[1])
    return pairs.transpose(0, 2, 1, 3).reshape(matrix.shape)


def _dequantise(header: GgufHeader, name: str) -> F32:
    try:
        import gguf
    except ImportError as error:
        raise GgufError(
            "the numpy engine needs the gguf package: pip install 'shunter[numpy-engine]'"
        ) from error
    if name not in header.tensors:
        raise GgufError(f"{header.path}: no tensor {name}")
    info = header.tensors[name]
    try:
        kind = gguf.GGMLQuantizationType(info.ggml_type)
        stored = gguf.quants.quant_shape_to_byte_shape(info.shape, kind)
        raw = np.memmap(header.path, np.uint8, mode="r", offset=info.offset, shape=stored)
        values = gguf.quants.dequantize(raw, kind)
    except (ValueError, NotImplementedError, OSError) as error:
        raise GgufError(f"{header.path}: cannot read tensor {name}: {error}") from error
    return cast(F32, np.asarray(values, np.float32).reshape(info.shape))
