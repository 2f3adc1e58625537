"""The forward pass of a Llama-family model over paged keys and values, in float32.

Architecture: Touvron et al. 2023 (RMSNorm, rotary positions, SwiGLU) with grouped-query attention.
In deterministic mode a row's result depends on its own sequence only, bit by bit: not on the other
rows of a step, not on how a prompt was cut into chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shunter_engine.numpy_attention import (
    ANY_ROWS,
    Ids,
    PagedKv,
    Places,
    QueryTile,
    agreeing_rows,
    attend,
    query_tiles,
)
from shunter_engine.numpy_products import F32, Products
from shunter_engine.weights import LayerWeights, LlamaWeights


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence to compute in one step, at positions `start`, `start + 1`, ..."""

    token_ids: Ids
    start: int
    blocks: Ids  # the sequence's block table
    wants_logits: bool  # of the last token


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of a step share."""

    places: Places
    tiles: list[QueryTile]
    cos: F32  # [n, 1, head_size / 2]
    sin: F32


class LlamaModel:
    """Not safe for use by two threads at once: a step writes into the `PagedKv` given."""

    def __init__(self, weights: LlamaWeights, block_tokens: int, deterministic: bool) -> None:
        self.shape = weights.shape
        self.block_tokens = block_tokens
        self._weights = weights
        self._group = self.shape.heads // self.shape.kv_heads
        self._products = Products(deterministic)
        self._attention_rows = ANY_ROWS
        if deterministic:
            head_size = self.shape.head_size
            self._attention_rows = agreeing_rows(head_size, block_tokens, self._group)
            layer = weights.layers[0]
            for matrix in (layer.qkv, layer.attention_out, layer.gate_up, layer.down):
                self._products.probe(matrix)
            self._products.probe(weights.head)
        half = np.arange(0, self.shape.head_size, 2) / self.shape.head_size
        self._frequencies = self.shape.rope_base**-half / weights.rope_factors

    def new_kv(self, blocks: int) -> PagedKv:
        shape = self.shape
        return PagedKv(shape.layers, blocks, shape.kv_heads, shape.head_size, self.block_tokens)

    def logits(self, kv: PagedKv, spans: Sequence[Span]) -> F32:
        """Computes a step; [spans that want them, vocabulary]."""
        x = self._hidden(kv, spans)
        ends = np.cumsum([len(span.token_ids) for span in spans]) - 1
        wanted = ends[[span.wants_logits for span in spans]]
        if not len(wanted):
            return np.empty((0, self.shape.vocabulary), np.float32)
        return self._products(self._output(x[wanted]), self._weights.head)

    def final_states(self, kv: PagedKv, spans: Sequence[Span]) -> F32:
        """Computes a step; the normed last hidden state of every token, [n, width]."""
        return self._output(self._hidden(kv, spans))

    def _hidden(self, kv: PagedKv, spans: Sequence[Span]) -> F32:
        step = self._prepare(spans)
        tokens = np.concatenate([span.token_ids for span in spans])
        x = self._weights.embedding.columns(tokens).copy()
        for index, layer in enumerate(self._weights.layers):
            self._attention(kv, index, layer, x, step)
            self._feed_forward(layer, x)
        return x

    def _prepare(self, spans: Sequence[Span]) -> _Step:
        positions = np.concatenate(
            [np.arange(span.start, span.start + len(span.token_ids)) for span in spans]
        )
        lengths = [len(span.token_ids) for span in spans]
        sequence = np.repeat(np.arange(len(spans)), lengths)
        blocks = np.empty(len(positions), np.int64)
        for index, span in enumerate(spans):
            mine = sequence == index
            blocks[mine] = span.blocks[positions[mine] // self.block_tokens]
        angles = positions[:, None, None] * self._frequencies
        return _Step(
            places=Places(blocks, positions % self.block_tokens),
            tiles=query_tiles(
                [(span.start, len(span.token_ids), span.blocks) for span in spans],
                self.block_tokens,
                self._group,
                self._attention_rows,
            ),
            cos=np.cos(angles).astype(np.float32),
            sin=np.sin(angles).astype(np.float32),
        )

    def _attention(self, kv: PagedKv, index: int, layer: LayerWeights, x: F32, step: _Step) -> None:
        shape = self.shape
        qkv = self._products(self._normed(x), layer.qkv)
        heads = qkv.reshape(len(x), shape.heads + 2 * shape.kv_heads, shape.head_size)
        rotated = _rotate(heads[:, : shape.heads + shape.kv_heads], step.cos, step.sin)
        queries, keys = rotated[:, : shape.heads], rotated[:, shape.heads :]
        kv.write(index, step.places, keys, heads[:, shape.heads + shape.kv_heads :])
        mixed = attend(queries, kv.keys[index], kv.values[index], step.tiles)
        x += self._products(mixed.reshape(len(x), -1), layer.attention_out)

    def _feed_forward(self, layer: LayerWeights, x: F32) -> None:
        gate_up = self._products(self._normed(x), layer.gate_up)
        gate, up = gate_up[:, : self.shape.feed_forward], gate_up[:, self.shape.feed_forward :]
        with np.errstate(over="ignore"):  # exp of a very negative gate: the sigmoid is 0
            inner = gate / (1 + np.exp(-gate))
        inner *= up
        x += self._products(inner, layer.down)

    def _normed(self, x: F32) -> F32:
        """RMSNorm without its weight, which is part of the matrix that follows."""
        mean_square = (x * x).sum(axis=-1, keepdims=True) / np.float32(self.shape.width)
        normed: F32 = x / np.sqrt(mean_square + np.float32(self.shape.norm_epsilon))
        return normed

    def _output(self, x: F32) -> F32:
        return self._normed(x) * self._weights.output_norm


def _rotate(x: F32, cos: F32, sin: F32) -> F32:
    """Rotary position embedding (Su et al. 2021); the two halves of the channels rotate."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = np.empty(x.shape, np.float32)
    out[..., :half] = first * cos - second * sin
    out[..., half:] = first * sin + second * cos
    return out
