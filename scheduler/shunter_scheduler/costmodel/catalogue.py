"""Architectures of common models, as their publishers' `config.json` files give them."""

from collections.abc import Mapping
from typing import TypedDict


class ShapeRow(TypedDict):
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_hidden: int
    vocab: int
    tied_embeddings: bool
    context_length: int
    experts: int
    active_experts: int
    source: str


def _row(
    repository: str,
    dims: tuple[int, int, int, int, int, int, int],
    context_length: int,
    *,
    tied: bool = False,
    experts: tuple[int, int] = (1, 1),
) -> ShapeRow:
    """`dims`: layers, hidden, heads, kv_heads, head_dim, mlp_hidden, vocab."""
    layers, hidden, heads, kv_heads, head_dim, mlp_hidden, vocab = dims
    return {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_hidden": mlp_hidden,
        "vocab": vocab,
        "tied_embeddings": tied,
        "context_length": context_length,
        "experts": experts[0],
        "active_experts": experts[1],
        "source": f"https://huggingface.co/{repository}/blob/main/config.json",
    }


ROWS: Mapping[str, ShapeRow] = {
    "llama-2-7b": _row("meta-llama/Llama-2-7b-hf", (32, 4096, 32, 32, 128, 11008, 32000), 4096),
    "llama-2-13b": _row("meta-llama/Llama-2-13b-hf", (40, 5120, 40, 40, 128, 13824, 32000), 4096),
    "llama-2-70b": _row("meta-llama/Llama-2-70b-hf", (80, 8192, 64, 8, 128, 28672, 32000), 4096),
    "codellama-34b": _row(
        "codellama/CodeLlama-34b-hf", (48, 8192, 64, 8, 128, 22016, 32000), 16384
    ),
    "llama-3-8b": _row("meta-llama/Meta-Llama-3-8B", (32, 4096, 32, 8, 128, 14336, 128256), 8192),
    "llama-3-70b": _row("meta-llama/Meta-Llama-3-70B", (80, 8192, 64, 8, 128, 28672, 128256), 8192),
    "llama-3.1-8b": _row("meta-llama/Llama-3.1-8B", (32, 4096, 32, 8, 128, 14336, 128256), 131072),
    "llama-3.1-70b": _row(
        "meta-llama/Llama-3.1-70B", (80, 8192, 64, 8, 128, 28672, 128256), 131072
    ),
    "llama-3.1-405b": _row(
        "meta-llama/Llama-3.1-405B", (126, 16384, 128, 8, 128, 53248, 128256), 131072
    ),
    "llama-3.2-1b": _row(
        "meta-llama/Llama-3.2-1B", (16, 2048, 32, 8, 64, 8192, 128256), 131072, tied=True
    ),
    "llama-3.2-3b": _row(
        "meta-llama/Llama-3.2-3B", (28, 3072, 24, 8, 128, 8192, 128256), 131072, tied=True
    ),
    "llama-3.3-70b": _row(
        "meta-llama/Llama-3.3-70B-Instruct", (80, 8192, 64, 8, 128, 28672, 128256), 131072
    ),
    "qwen2.5-0.5b": _row("Qwen/Qwen2.5-0.5B", (24, 896, 14, 2, 64, 4864, 151936), 32768, tied=True),
    "qwen2.5-1.5b": _row(
        "Qwen/Qwen2.5-1.5B", (28, 1536, 12, 2, 128, 8960, 151936), 131072, tied=True
    ),
    "qwen2.5-3b": _row("Qwen/Qwen2.5-3B", (36, 2048, 16, 2, 128, 11008, 151936), 32768, tied=True),
    "qwen2.5-7b": _row("Qwen/Qwen2.5-7B", (28, 3584, 28, 4, 128, 18944, 152064), 131072),
    "qwen2.5-14b": _row("Qwen/Qwen2.5-14B", (48, 5120, 40, 8, 128, 13824, 152064), 131072),
    "qwen2.5-32b": _row("Qwen/Qwen2.5-32B", (64, 5120, 40, 8, 128, 27648, 152064), 131072),
    "qwen2.5-72b": _row("Qwen/Qwen2.5-72B", (80, 8192, 64, 8, 128, 29568, 152064), 131072),
    "qwen3-8b": _row("Qwen/Qwen3-8B", (36, 4096, 32, 8, 128, 12288, 151936), 40960),
    "qwen3-32b": _row("Qwen/Qwen3-32B", (64, 5120, 64, 8, 128, 25600, 151936), 40960),
    "qwen3-30b-a3b": _row(
        "Qwen/Qwen3-30B-A3B", (48, 2048, 32, 4, 128, 768, 151936), 40960, experts=(128, 8)
    ),
    "mistral-7b": _row("mistralai/Mistral-7B-v0.1", (32, 4096, 32, 8, 128, 14336, 32000), 32768),
    "mixtral-8x7b": _row(
        "mistralai/Mixtral-8x7B-v0.1", (32, 4096, 32, 8, 128, 14336, 32000), 32768, experts=(8, 2)
    ),
    "gemma-2-9b": _row("google/gemma-2-9b", (42, 3584, 16, 8, 256, 14336, 256000), 8192, tied=True),
    "gemma-2-27b": _row(
        "google/gemma-2-27b", (46, 4608, 32, 16, 128, 36864, 256000), 8192, tied=True
    ),
    "phi-4": _row("microsoft/phi-4", (40, 5120, 40, 10, 128, 17920, 100352), 16384),
    "smollm2-135m": _row(
        "HuggingFaceTB/SmolLM2-135M", (30, 576, 9, 3, 64, 1536, 49152), 8192, tied=True
    ),
    "smollm2-360m": _row(
        "HuggingFaceTB/SmolLM2-360M", (32, 960, 15, 5, 64, 2560, 49152), 8192, tied=True
    ),
    "smollm2-1.7b": _row(
        "HuggingFaceTB/SmolLM2-1.7B", (24, 2048, 32, 32, 64, 8192, 49152), 8192, tied=True
    ),
}
