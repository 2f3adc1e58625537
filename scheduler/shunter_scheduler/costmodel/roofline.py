"""How long one engine step takes: a smooth roofline over linear layers, attention and collectives.

Per layer without the attention core, n tokens in the step (seconds):

    t(n) = (C^k + W^k)^(1/k) + activation_bytes(n) / (BW * e_a) + t0
    C = 2 * parameters * n / (F * e_f)        W = weight_bytes / (BW * e_m)

The form is the roofline of LLM-Viewer (arXiv 2402.16363) with the hard maximum made smooth and the
efficiencies fitted (`calibration`). Attention, all-reduce and the output head come on top. Of a
quantised layer `weight_bytes` are the stored ones, and F doubles where the tensor cores multiply
what is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from shunter_api.accelerators import Accelerator
from shunter_scheduler.costmodel import calibration as cal
from shunter_scheduler.costmodel.linear import LinearRates, fit_linear
from shunter_scheduler.costmodel.precision import speed_up
from shunter_scheduler.costmodel.shapes import Mlp, ModelShape

MEMORY_FOR_ENGINE = 0.9  # of the device memory: the usual default of serving engines
GIB = 1024**3


class ModelDoesNotFit(ValueError):
    """The weights leave no memory for the KV cache."""


def cost_model(
    shape: ModelShape,
    accelerator: Accelerator,
    tensor_parallel: int = 1,
    memory_share: float = MEMORY_FOR_ENGINE,
) -> "CostModel":
    """`memory_share` of the device memory is the engine's, in (0, 1]. Raises `ModelDoesNotFit`,
    and `ValueError` where the heads cannot be split so."""
    _check_split(shape, tensor_parallel)
    model = CostModel(shape, accelerator, tensor_parallel, memory_share)
    if model.kv_capacity_tokens < 1:
        raise ModelDoesNotFit(
            f"{shape.name} has {model.weights_bytes / GIB:.1f} GiB of weights, but "
            f"{tensor_parallel} x {accelerator.key} give the engine "
            f"{model.usable_bytes / GIB:.1f} GiB ({memory_share:.0%} of "
            f"{tensor_parallel * accelerator.memory_gib:g} GiB): raise tensorParallel or take an "
            f"accelerator with more memory"
        )
    return model


def _check_split(shape: ModelShape, devices: int) -> None:
    """As serving engines split heads: query heads evenly, KV heads evenly or replicated evenly."""
    if devices < 1 or shape.heads % devices:
        raise ValueError(
            f"tensor parallel {devices} does not divide the {shape.heads} attention heads "
            f"of {shape.name}"
        )
    if shape.latent is None and max(shape.kv_heads, devices) % min(shape.kv_heads, devices):
        raise ValueError(
            f"the {shape.kv_heads} KV heads of {shape.name} can neither be split nor replicated "
            f"evenly over tensor parallel {devices}"
        )


@dataclass(frozen=True)
class CostModel:
    """Predicted step times of one engine. Build it with `cost_model`, which checks that it fits."""

    shape: ModelShape
    accelerator: Accelerator
    tensor_parallel: int = 1
    memory_share: float = MEMORY_FOR_ENGINE

    @cached_property
    def weights_bytes(self) -> int:
        """Of all the engine's devices together."""
        return self.shape.weights_bytes

    @cached_property
    def kv_bytes_per_token(self) -> int:
        """Of all the engine's devices together: fewer heads than devices are replicated, and so is
        a latent vector. Layers with a window count whole, as in engines with one block pool."""
        s = self.shape
        copies = max(1, self.tensor_parallel // s.kv_heads)
        if s.latent is not None:
            copies = self.tensor_parallel
        return copies * s.layers * s.kv_values_per_token * s.kv_dtype_bytes

    @cached_property
    def usable_bytes(self) -> float:
        return self.memory_share * self.tensor_parallel * self.accelerator.memory_gib * GIB

    @cached_property
    def kv_capacity_tokens(self) -> int:
        return int((self.usable_bytes - self.weights_bytes) // self.kv_bytes_per_token)

    def prefill_s(self, new_tokens: int, past_tokens: int = 0) -> float:
        """A step that computes `new_tokens` of one prompt after `past_tokens` cached ones."""
        return self.step_s([(new_tokens, past_tokens)])

    def decode_step_s(self, batch: int, context_tokens: int) -> float:
        """A step that adds one token to each of `batch` sequences, `context_tokens` long in sum."""
        return self.step_s((), batch, context_tokens)

    def step_s(
        self,
        chunks: Sequence[tuple[int, int]],
        decode_batch: int = 0,
        decode_context_tokens: int = 0,
    ) -> float:
        """A mixed step. `chunks`: (new tokens, past tokens) of each prefill in it."""
        tokens = decode_batch + sum(new for new, _ in chunks)
        if not tokens:
            return 0.0
        linear_s = sum(mlp.layers * self._linear_layer_s(mlp, tokens) for mlp in self.shape.mlps)
        layer_s = self._all_reduces_s(tokens)
        attention_s = 0.0
        if chunks:
            layer_s += cal.PREFILL_ATTENTION_LAUNCH_S
            attention_s += self._prefill_attention_s(chunks)
        if decode_batch:
            layer_s += cal.DECODE_ATTENTION_LAUNCH_S
            attention_s += self._decode_attention_s(decode_batch, decode_context_tokens)
        head_s = self._head_s(decode_batch + len(chunks))
        return linear_s + self.shape.layers * layer_s + attention_s + head_s

    @cached_property
    def _linear_rates(self) -> LinearRates:
        return fit_linear(self)

    def linear(self) -> LinearRates:
        """Straight lines through this model, for decisions that need a few multiplications only."""
        return self._linear_rates

    @cached_property
    def _calibration(self) -> cal.Calibration:
        return cal.calibration(self.accelerator.key)

    @cached_property
    def _flops_per_s(self) -> float:
        return self.accelerator.bf16_tflops * 1e12

    @cached_property
    def _bytes_per_s(self) -> float:
        return self.accelerator.memory_gb_s * 1e9

    def _roofline_s(self, flops: float, read_bytes: float) -> float:
        c = self._calibration
        compute_s = flops / (self._flops_per_s * c.flops_efficiency)
        memory_s = read_bytes / (self._bytes_per_s * c.memory_efficiency)
        k = c.smoothing
        return float((compute_s**k + memory_s**k) ** (1 / k))

    @cached_property
    def _quantised_speed_up(self) -> float:
        return speed_up(self.shape.weights.arithmetic, self.accelerator.key)

    def _linear_layer_s(self, mlp: Mlp, tokens: int) -> float:
        s, c, tp = self.shape, self._calibration, self.tensor_parallel
        # Experts that at least one of the tokens is routed to, were routing uniform.
        touched = mlp.experts * (1 - (1 - mlp.active / mlp.experts) ** tokens)
        common = s.attention_parameters + s.mlp_parameters(mlp.shared_hidden)
        expert = s.mlp_parameters(mlp.hidden)
        flops = 2 * (common + mlp.active * expert) * tokens / self._quantised_speed_up
        read_bytes = common * s.linear_bytes + touched * expert * s.expert_bytes
        activation_bytes = tokens * self._activation_bytes(mlp)
        activation_s = activation_bytes / (self._bytes_per_s * c.activation_efficiency)
        return self._roofline_s(flops / tp, read_bytes / tp) + activation_s + c.layer_overhead_s

    def _activation_bytes(self, mlp: Mlp) -> float:
        """Read and written per token and layer: norms, residuals, each product's in and out."""
        s, tp = self.shape, self.tensor_parallel
        whole = 14 * s.hidden  # two norms (4h), two residual sums (6h), ends of the products (4h)
        attention = 2 * s.heads * s.head_dim + s.kv_values_per_token
        width = mlp.active * mlp.hidden + mlp.shared_hidden
        gated = 2 * s.mlp_matrices * width  # gate, up; both read, product; product read
        return s.dtype_bytes * (whole + (attention + gated) / tp)

    def _prefill_attention_s(self, chunks: Sequence[tuple[int, int]]) -> float:
        """Of all layers, without their launches."""
        s = self.shape
        pairs = sum(new * past + new * new / 2 for new, past in chunks)
        seen = sum(_pairs_in_window(new, past, s.window) for new, past in chunks)
        past = sum(past for _, past in chunks)
        past_seen = sum(min(past, s.window) for _, past in chunks)
        flops = s.flops_per_pair * self._over_layers(pairs, seen) / self.tensor_parallel
        compute_s = flops / (self._flops_per_s * cal.PREFILL_ATTENTION_FLOPS_EFFICIENCY)
        return compute_s + self._kv_read_s(self._over_layers(past, past_seen))

    def _decode_attention_s(self, batch: int, context_tokens: int) -> float:
        """Of all layers, without their launches: reading the KV cache, or with latent attention
        multiplying by it, whichever is longer."""
        s = self.shape
        tokens = self._over_layers(context_tokens, min(context_tokens, batch * s.window))
        flops = s.decode_flops_per_pair * tokens / self.tensor_parallel
        compute_s = flops / (self._flops_per_s * cal.PREFILL_ATTENTION_FLOPS_EFFICIENCY)
        return max(compute_s, self._kv_read_s(tokens))

    def _over_layers(self, everywhere: float, in_window: float) -> float:
        s = self.shape
        return (s.layers - s.windowed_layers) * everywhere + s.windowed_layers * in_window

    def _kv_read_s(self, tokens: float) -> float:
        """Reading the keys and values of as many tokens, each of one layer, on one device."""
        layer_bytes = tokens * self.kv_bytes_per_token / self.shape.layers / self.tensor_parallel
        return layer_bytes / (self._bytes_per_s * cal.DECODE_ATTENTION_MEMORY_EFFICIENCY)

    def _all_reduces_s(self, tokens: int) -> float:
        """The two ring all-reduces of one layer."""
        n = self.tensor_parallel
        if n == 1:
            return 0.0
        message_bytes = tokens * self.shape.hidden * self.shape.dtype_bytes
        link_bytes_per_s = (
            self.accelerator.link_gb_s * 1e9 * self._calibration.all_reduce_efficiency
        )
        ring_s = 2 * (n - 1) / n * message_bytes / link_bytes_per_s
        return 2 * (cal.ALL_REDUCE_START_S + 2 * (n - 1) * cal.ALL_REDUCE_HOP_S + ring_s)

    def _head_s(self, sequences: int) -> float:
        """The output projection, for one position of each sequence."""
        parameters = self.shape.head_parameters / self.tensor_parallel
        return self._roofline_s(2 * parameters * sequences, parameters * self.shape.embedding_bytes)


def _pairs_in_window(new: int, past: int, window: int) -> float:
    """Of `new` tokens after `past` with those that each sees of the last `window`."""
    growing = min(new, max(0, window - past))  # tokens that still see all before them
    return growing * past + growing * growing / 2 + (new - growing) * window
