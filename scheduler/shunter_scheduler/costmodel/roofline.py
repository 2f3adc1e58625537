"""How long one engine step takes: a smooth roofline over linear layers, attention and collectives.

Per layer without the attention core, n tokens in the step (seconds):

    t(n) = (C^k + W^k)^(1/k) + activation_bytes(n) / (BW * e_a) + t0
    C = 2 * parameters * n / (F * e_f)        W = weight_bytes / (BW * e_m)

The form is the roofline of LLM-Viewer (arXiv 2402.16363) with the hard maximum made smooth and the
efficiencies fitted (`calibration`). Attention, all-reduce and the output head come on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from shunter_api.accelerators import Accelerator
from shunter_scheduler.costmodel import calibration as cal
from shunter_scheduler.costmodel.linear import LinearRates, fit_linear
from shunter_scheduler.costmodel.shapes import ModelShape

MEMORY_FOR_ENGINE = 0.9  # of the device memory: the usual default of serving engines
GIB = 1024**3


class ModelDoesNotFit(ValueError):
    """The weights leave no memory for the KV cache."""


def cost_model(
    shape: ModelShape, accelerator: Accelerator, tensor_parallel: int = 1
) -> "CostModel":
    """Raises `ModelDoesNotFit`, and `ValueError` where the heads cannot be split so."""
    _check_split(shape, tensor_parallel)
    model = CostModel(shape, accelerator, tensor_parallel)
    if model.kv_capacity_tokens < 1:
        raise ModelDoesNotFit(
            f"{shape.name} has {model.weights_bytes / GIB:.1f} GiB of weights, but "
            f"{tensor_parallel} x {accelerator.key} give the engine "
            f"{model.usable_bytes / GIB:.1f} GiB ({MEMORY_FOR_ENGINE:.0%} of "
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
    if max(shape.kv_heads, devices) % min(shape.kv_heads, devices):
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

    @cached_property
    def weights_bytes(self) -> int:
        """Of all the engine's devices together."""
        return self.shape.parameters * self.shape.dtype_bytes

    @cached_property
    def kv_bytes_per_token(self) -> int:
        """Of all the engine's devices together; fewer heads than devices are replicated."""
        s = self.shape
        return 2 * s.layers * max(s.kv_heads, self.tensor_parallel) * s.head_dim * s.dtype_bytes

    @cached_property
    def usable_bytes(self) -> float:
        return MEMORY_FOR_ENGINE * self.tensor_parallel * self.accelerator.memory_gib * GIB

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
        layer = self._linear_layer_s(tokens) + self._all_reduces_s(tokens)
        if chunks:
            layer += self._prefill_attention_s(chunks)
        if decode_batch:
            layer += self._decode_attention_s(decode_context_tokens)
        return self.shape.layers * layer + self._head_s(decode_batch + len(chunks))

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

    def _roofline_s(self, computed_parameters: float, read_parameters: float, tokens: int) -> float:
        c = self._calibration
        compute_s = 2 * computed_parameters * tokens / (self._flops_per_s * c.flops_efficiency)
        read_bytes = read_parameters * self.shape.dtype_bytes
        memory_s = read_bytes / (self._bytes_per_s * c.memory_efficiency)
        k = c.smoothing
        return float((compute_s**k + memory_s**k) ** (1 / k))

    def _linear_layer_s(self, tokens: int) -> float:
        s, c, tp = self.shape, self._calibration, self.tensor_parallel
        # Experts that at least one of the tokens is routed to, were routing uniform.
        touched = s.experts * (1 - (1 - s.active_experts / s.experts) ** tokens)
        computed = s.attention_parameters + s.active_experts * s.expert_parameters
        read = s.attention_parameters + touched * s.expert_parameters
        activation_s = (
            tokens * self._activation_bytes / (self._bytes_per_s * c.activation_efficiency)
        )
        return (
            self._roofline_s(computed / tp, read / tp, tokens) + activation_s + c.layer_overhead_s
        )

    @cached_property
    def _activation_bytes(self) -> float:
        """Read and written per token and layer: norms, residuals, each product's in and out."""
        s, tp = self.shape, self.tensor_parallel
        whole = 14 * s.hidden  # two norms (4h), two residual sums (6h), ends of the products (4h)
        attention = (2 * s.heads + 2 * s.kv_heads) * s.head_dim
        mlp = 6 * s.active_experts * s.mlp_hidden  # gate, up; both read, product; product read
        return s.dtype_bytes * (whole + (attention + mlp) / tp)

    def _prefill_attention_s(self, chunks: Sequence[tuple[int, int]]) -> float:
        s = self.shape
        pairs = sum(new * past + new * new / 2 for new, past in chunks)
        flops = 4 * s.heads * s.head_dim * pairs / self.tensor_parallel
        compute_s = flops / (self._flops_per_s * cal.PREFILL_ATTENTION_FLOPS_EFFICIENCY)
        past_s = self._kv_read_s(sum(past for _, past in chunks))
        return compute_s + past_s + cal.PREFILL_ATTENTION_LAUNCH_S

    def _decode_attention_s(self, context_tokens: int) -> float:
        return self._kv_read_s(context_tokens) + cal.DECODE_ATTENTION_LAUNCH_S

    def _kv_read_s(self, tokens: int) -> float:
        """Reading the keys and values of one layer on one device."""
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
        return self._roofline_s(parameters, parameters, sequences)
