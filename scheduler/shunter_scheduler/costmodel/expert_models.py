"""Architectures of models with experts, as their publishers' `config.json` files give them."""

from collections.abc import Mapping
from dataclasses import replace

from shunter_scheduler.costmodel.dense_models import shape
from shunter_scheduler.costmodel.precision import FP8, MXFP4_EXPERTS
from shunter_scheduler.costmodel.shapes import Latent, ModelShape

_128K = 131_072
_DEEPSEEK = Latent(kv_rank=512, rope_dim=64, nope_dim=128, value_dim=128, q_rank=1536)


def _routed(
    base: ModelShape,
    experts: tuple[int, int],
    *,
    shared: int = 0,
    dense: tuple[int, int] = (0, 0),
) -> ModelShape:
    """`experts`: how many there are and how many a token takes; `shared`: the width that every
    token takes; `dense`: how many layers have no experts, and the width of their MLP."""
    return replace(
        base,
        experts=experts[0],
        active_experts=experts[1],
        shared_mlp_hidden=shared,
        dense_layers=dense[0],
        dense_mlp_hidden=dense[1],
    )


EXPERT_MODELS: Mapping[str, ModelShape] = {
    "llama-4-scout-17b-16e": _routed(
        shape(
            "meta-llama/Llama-4-Scout-17B-16E",
            (48, 5120, 40, 8, 128, 8192, 202048),
            10_485_760,
            windowed=(36, 8192),
        ),
        (16, 1),
        shared=8192,
    ),
    "llama-4-maverick-17b-128e": _routed(
        shape(
            "meta-llama/Llama-4-Maverick-17B-128E",
            (48, 5120, 40, 8, 128, 8192, 202048),
            1_048_576,
            windowed=(36, 8192),
        ),
        (128, 1),
        shared=8192,
        dense=(24, 16384),
    ),
    "qwen3-30b-a3b": _routed(
        shape("Qwen/Qwen3-30B-A3B", (48, 2048, 32, 4, 128, 768, 151936), 40960), (128, 8)
    ),
    "qwen3-235b-a22b": _routed(
        shape("Qwen/Qwen3-235B-A22B", (94, 4096, 64, 4, 128, 1536, 151936), 40960), (128, 8)
    ),
    "qwen3-coder-480b-a35b": _routed(
        shape("Qwen/Qwen3-Coder-480B-A35B-Instruct", (62, 6144, 96, 8, 128, 2560, 151936), 262_144),
        (160, 8),
    ),
    "mixtral-8x7b": _routed(
        shape("mistralai/Mixtral-8x7B-v0.1", (32, 4096, 32, 8, 128, 14336, 32000), 32768), (8, 2)
    ),
    "mixtral-8x22b": _routed(
        shape("mistralai/Mixtral-8x22B-v0.1", (56, 6144, 48, 8, 128, 16384, 32000), 65536), (8, 2)
    ),
    "deepseek-v2-lite": replace(
        _routed(
            shape("deepseek-ai/DeepSeek-V2-Lite", (27, 2048, 16, 16, 128, 1408, 102400), 163_840),
            (64, 6),
            shared=2816,
            dense=(1, 10944),
        ),
        latent=replace(_DEEPSEEK, q_rank=0),
    ),
    "deepseek-v2": replace(
        _routed(
            shape("deepseek-ai/DeepSeek-V2", (60, 5120, 128, 128, 128, 1536, 102400), 163_840),
            (160, 6),
            shared=3072,
            dense=(1, 12288),
        ),
        latent=_DEEPSEEK,
    ),
    "deepseek-v3": replace(
        _routed(
            shape("deepseek-ai/DeepSeek-V3", (61, 7168, 128, 128, 128, 2048, 129280), 163_840),
            (256, 8),
            shared=2048,
            dense=(3, 18432),
        ),
        latent=_DEEPSEEK,
        weights=FP8,
    ),
    "kimi-k2": replace(
        _routed(
            shape("moonshotai/Kimi-K2-Instruct", (61, 7168, 64, 64, 128, 2048, 163840), _128K),
            (384, 8),
            shared=2048,
            dense=(1, 18432),
        ),
        latent=_DEEPSEEK,
        weights=FP8,
    ),
    "gpt-oss-20b": replace(
        _routed(
            shape(
                "openai/gpt-oss-20b",
                (24, 2880, 64, 8, 64, 2880, 201088),
                _128K,
                windowed=(12, 128),
            ),
            (32, 4),
        ),
        weights=MXFP4_EXPERTS,
    ),
    "gpt-oss-120b": replace(
        _routed(
            shape(
                "openai/gpt-oss-120b",
                (36, 2880, 64, 8, 64, 2880, 201088),
                _128K,
                windowed=(18, 128),
            ),
            (128, 4),
        ),
        weights=MXFP4_EXPERTS,
    ),
    "glm-4.5": _routed(
        shape("zai-org/GLM-4.5", (92, 5120, 96, 8, 128, 1536, 151552), _128K),
        (160, 8),
        shared=1536,
        dense=(3, 12288),
    ),
    "glm-4.5-air": _routed(
        shape("zai-org/GLM-4.5-Air", (46, 4096, 96, 8, 128, 1408, 151552), _128K),
        (128, 8),
        shared=1408,
        dense=(1, 10944),
    ),
    "phi-3.5-moe": _routed(
        shape("microsoft/Phi-3.5-MoE-instruct", (32, 4096, 32, 8, 128, 6400, 32064), _128K),
        (16, 2),
    ),
}
