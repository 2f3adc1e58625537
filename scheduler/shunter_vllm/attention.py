"""What a worker of vLLM computes attention with. Needs vLLM's environment."""

from typing import TYPE_CHECKING, Any

import torch
from vllm import envs
from vllm.platforms import current_platform

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def attention_in_use(vllm_config: "VllmConfig") -> str:
    """Device, and the layers' backends: each may pack a block of the same shape otherwise.

    vLLM for CPUs packs bfloat16 by instruction set (`_get_attn_isa` of
    vllm/v1/attention/backends/cpu_attn.py), which layers tell, and its backend for AMD shuffles
    blocks where it is told to. `fp8` is another format on AMD's MI300 than elsewhere.
    """
    layers = vllm_config.compilation_config.static_forward_context.values()
    attention = [layer for layer in layers if hasattr(layer, "get_attn_backend")]
    backends = {layer.get_attn_backend().get_name() for layer in attention}
    shuffled = " shuffled" if getattr(envs, "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT", False) else ""
    return f"{_device()} {'+'.join(sorted(backends))} {_instructions(attention)}{shuffled}"


def _device() -> str:
    return f"{current_platform.device_name} {current_platform.get_device_name()}"


def _instructions(attention: list[Any]) -> str:
    """The CPU's; nothing of other devices."""
    if current_platform.device_type != "cpu":
        return ""
    named = {str(layer.isa) for layer in attention if getattr(layer, "isa", None)}
    return "+".join(sorted(named)) or str(torch.backends.cpu.get_cpu_capability())
