"""The forward pass of `numpy_model` in torch, on a GPU where there is one.

Same weights, same layout of keys and values (float32), so that requests move between the two. A
step's sequences attend one after the other; products are over the whole batch, hence there is no
deterministic mode. Import this module only where it is asked for: torch is an optional extra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention, silu

from shunter_engine.numpy_attention import Ids
from shunter_engine.numpy_model import Span
from shunter_engine.numpy_products import F32, BlockedMatrix
from shunter_engine.weights import LayerWeights, LlamaWeights

Tensor = Any  # torch has no types where it is not installed


class TorchKv:
    """Keys and values, each [layer, block, token, head, channel]."""

    def __init__(self, shape: tuple[int, ...], device: str) -> None:
        self.keys: Tensor = torch.zeros(shape, dtype=torch.float32, device=device)
        self.values: Tensor = torch.zeros(shape, dtype=torch.float32, device=device)
        self._device = device

    def read(self, blocks: Ids, tokens: int, layers: slice) -> F32:
        """See `PagedKv.read`."""
        at = torch.as_tensor(blocks, device=self._device)
        both = torch.stack([self.keys[layers][:, at], self.values[layers][:, at]])
        flat: F32 = both.flatten(2, 3)[:, :, :tokens].cpu().numpy()
        return flat

    def load(self, blocks: Ids, layers: slice, both: F32) -> None:
        """See `PagedKv.load`."""
        _, _, block_tokens, heads, channels = self.keys.shape
        count = len(blocks)
        full = np.zeros((2, both.shape[1], count * block_tokens, heads, channels), np.float32)
        full[:, :, : both.shape[2]] = both
        tensor = torch.from_numpy(full).to(self._device)
        tensor = tensor.unflatten(2, (count, block_tokens))
        at = torch.as_tensor(blocks, device=self._device)
        self.keys[layers, at], self.values[layers, at] = tensor[0], tensor[1]


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Tensor
    attention_out: Tensor
    gate_up: Tensor
    down: Tensor


class TorchLlama:
    """`Forward` of `numpy_steps`. `device`: `cuda`, `cpu`; empty: a GPU where there is one."""

    def __init__(self, weights: LlamaWeights, block_tokens: int, device: str = "") -> None:
        self.shape = weights.shape
        self.block_tokens = block_tokens
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._layers = [self._layer(layer) for layer in weights.layers]
        self._embedding = self._matrix(weights.embedding)  # [width, vocabulary]
        self._head = self._matrix(weights.head)
        self._output_norm = self._tensor(weights.output_norm)
        half = np.arange(0, self.shape.head_size, 2) / self.shape.head_size
        frequencies = self.shape.rope_base**-half / weights.rope_factors
        self._frequencies = torch.as_tensor(frequencies, dtype=torch.float64, device=self.device)

    def new_kv(self, blocks: int) -> TorchKv:
        shape = self.shape
        sizes = (shape.layers, blocks, self.block_tokens, shape.kv_heads, shape.head_size)
        return TorchKv(sizes, self.device)

    def logits(self, kv: TorchKv, spans: Sequence[Span]) -> F32:
        """See `LlamaModel.logits`."""
        ends = np.cumsum([len(span.token_ids) for span in spans]) - 1
        wanted = ends[[span.wants_logits for span in spans]]
        with torch.inference_mode():
            x = self._hidden(kv, spans)
            if not len(wanted):
                return np.empty((0, self.shape.vocabulary), np.float32)
            rows = self._normed(x[torch.as_tensor(wanted, device=self.device)])
            logits: F32 = (rows * self._output_norm @ self._head).cpu().numpy()
        return logits

    def final_states(self, kv: TorchKv, spans: Sequence[Span]) -> F32:
        """See `LlamaModel.final_states`."""
        with torch.inference_mode():
            x = self._normed(self._hidden(kv, spans)) * self._output_norm
            states: F32 = x.cpu().numpy()
        return states

    def _hidden(self, kv: TorchKv, spans: Sequence[Span]) -> Tensor:
        tokens = self._ids(np.concatenate([span.token_ids for span in spans]))
        positions = np.concatenate(
            [np.arange(span.start, span.start + len(span.token_ids)) for span in spans]
        )
        blocks = np.concatenate(
            [
                span.blocks[
                    np.arange(span.start, span.start + len(span.token_ids)) // self.block_tokens
                ]
                for span in spans
            ]
        )
        places = self._ids(blocks), self._ids(positions % self.block_tokens)
        angles = self._ids(positions).double()[:, None, None] * self._frequencies
        turn = angles.cos().float(), angles.sin().float()
        x = self._embedding[:, tokens].T.contiguous()
        for index, layer in enumerate(self._layers):
            x = x + self._attention(kv, index, layer, x, (spans, places, turn))
            gate, up = (self._normed(x) @ layer.gate_up).chunk(2, dim=-1)
            x = x + (silu(gate) * up) @ layer.down
        return x

    def _attention(self, kv: TorchKv, index: int, layer: _Layer, x: Tensor, step: Any) -> Tensor:
        spans, places, turn = step
        shape = self.shape
        qkv = (self._normed(x) @ layer.qkv).view(
            len(x), shape.heads + 2 * shape.kv_heads, shape.head_size
        )
        rotated = _rotate(qkv[:, : shape.heads + shape.kv_heads], *turn)
        kv.keys[index][places] = rotated[:, shape.heads :]
        kv.values[index][places] = qkv[:, shape.heads + shape.kv_heads :]
        out, first = torch.empty_like(rotated[:, : shape.heads]), 0
        for span in spans:
            count = len(span.token_ids)
            queries = rotated[first : first + count, : shape.heads]
            out[first : first + count] = self._attend(kv, index, span, queries)
            first += count
        return out.flatten(1) @ layer.attention_out

    def _attend(self, kv: TorchKv, index: int, span: Span, queries: Tensor) -> Tensor:
        """[token, head, channel]; the scale is part of the weights."""
        end = span.start + len(span.token_ids)
        at = self._ids(span.blocks[: -(-end // self.block_tokens)])
        keys = kv.keys[index][at].flatten(0, 1)[:end].transpose(0, 1)
        values = kv.values[index][at].flatten(0, 1)[:end].transpose(0, 1)
        group = self.shape.heads // self.shape.kv_heads
        seen = torch.arange(end, device=self.device) <= torch.arange(
            span.start, end, device=self.device
        ).unsqueeze(1)
        return scaled_dot_product_attention(
            queries.transpose(0, 1),
            keys.repeat_interleave(group, 0),
            values.repeat_interleave(group, 0),
            attn_mask=seen,
            scale=1.0,
        ).transpose(0, 1)

    def _normed(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.shape.norm_epsilon)

    def _ids(self, ids: Ids) -> Tensor:
        return torch.as_tensor(ids, dtype=torch.int64, device=self.device)

    def _tensor(self, array: F32) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _matrix(self, matrix: BlockedMatrix) -> Tensor:
        down, across, depth, width = matrix.blocks.shape
        dense = matrix.blocks.transpose(0, 2, 1, 3).reshape(down * depth, across * width)
        return self._tensor(dense[: matrix.inputs, : matrix.outputs])

    def _layer(self, layer: LayerWeights) -> _Layer:
        return _Layer(
            self._matrix(layer.qkv),
            self._matrix(layer.attention_out),
            self._matrix(layer.gate_up),
            self._matrix(layer.down),
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
