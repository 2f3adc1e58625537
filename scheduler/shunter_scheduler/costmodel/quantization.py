"""What a `config.json` says about quantisation (`quantization_config`)."""

from collections.abc import Mapping
from typing import Any

from shunter_scheduler.costmodel.precision import (
    BF16,
    FP8,
    INT8,
    INT8_WEIGHTS,
    MXFP4_EXPERTS,
    Precision,
    precision_of_name,
)

_FP8_METHODS = frozenset({"fp8", "fbgemm_fp8", "modelopt", "ptpc_fp8"})
_GROUP_METHODS = frozenset({"awq", "gptq", "auto-round", "autoround", "intel/auto-round", "hqq"})


def stored_as(name: str, config: Mapping[str, Any] | None) -> tuple[Precision, int]:
    """How weights are stored, and the bytes of a value in the KV cache. Without a configuration
    the name's suffix counts. What is not known counts as 16 bits: memory rather too short."""
    if not config:
        return precision_of_name(name)[1] or BF16, 2
    kv_scheme = config.get("kv_cache_scheme") or {}
    kv_bits = kv_scheme.get("num_bits") if isinstance(kv_scheme, dict) else None
    return _weights(config), 1 if kv_bits == 8 else 2


def _weights(config: Mapping[str, Any]) -> Precision:
    method = str(config.get("quant_method", "")).lower()
    if method == "mxfp4":
        return MXFP4_EXPERTS
    if method in _FP8_METHODS:
        return FP8
    if method in _GROUP_METHODS:
        return _grouped(_integer(config, "bits") or _integer(config, "w_bit") or 4, config)
    if method == "bitsandbytes":
        return _grouped(4, {"group_size": 64}) if config.get("load_in_4bit") else INT8_WEIGHTS
    if method == "compressed-tensors":
        return _compressed(config)
    return BF16


def _compressed(config: Mapping[str, Any]) -> Precision:
    """llm-compressor's files: the first group of layers speaks for all."""
    groups = config.get("config_groups") or {}
    group = next((g for g in groups.values() if isinstance(g, dict)), {})
    weights = group.get("weights") or {}
    bits = _integer(weights, "num_bits") or 16
    if bits == 8 and weights.get("type") == "float":
        return FP8
    if bits == 8:
        return INT8 if group.get("input_activations") else INT8_WEIGHTS
    return _grouped(bits, weights) if bits < 8 else BF16


def _grouped(bits: int, config: Mapping[str, Any]) -> Precision:
    """Integers with a scale of 16 bits and a zero point per group."""
    group = _integer(config, "group_size") or 128
    overhead_bits = (16 + bits) / group if group > 0 else 0.0
    return Precision(f"int{bits}", (bits + overhead_bits) / 8)


def _integer(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) else None
