"""Architectures of dense models, as their publishers' `config.json` files give them."""

from collections.abc import Mapping

from shunter_scheduler.costmodel.shapes import ModelShape

_128K = 131_072


def shape(
    repository: str,
    dims: tuple[int, int, int, int, int, int, int],
    context_length: int,
    *,
    tied: bool = False,
    plain_mlp: bool = False,
    windowed: tuple[int, int] = (0, 0),
) -> ModelShape:
    """`dims`: layers, hidden, heads, kv_heads, head_dim, mlp_hidden, vocab. `windowed`: how many
    layers attend to how many tokens only."""
    layers, hidden, heads, kv_heads, head_dim, mlp_hidden, vocab = dims
    return ModelShape(
        "",
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        mlp_hidden,
        vocab,
        tied_embeddings=tied,
        context_length=context_length,
        mlp_matrices=2 if plain_mlp else 3,
        windowed_layers=windowed[0],
        window=windowed[1],
        source=f"https://huggingface.co/{repository}/blob/main/config.json",
    )


DENSE_MODELS: Mapping[str, ModelShape] = {
    "llama-7b": shape("huggyllama/llama-7b", (32, 4096, 32, 32, 128, 11008, 32000), 2048),
    "llama-13b": shape("huggyllama/llama-13b", (40, 5120, 40, 40, 128, 13824, 32000), 2048),
    "llama-30b": shape("huggyllama/llama-30b", (60, 6656, 52, 52, 128, 17920, 32000), 2048),
    "llama-65b": shape("huggyllama/llama-65b", (80, 8192, 64, 64, 128, 22016, 32000), 2048),
    "llama-2-7b": shape("meta-llama/Llama-2-7b-hf", (32, 4096, 32, 32, 128, 11008, 32000), 4096),
    "llama-2-13b": shape("meta-llama/Llama-2-13b-hf", (40, 5120, 40, 40, 128, 13824, 32000), 4096),
    "llama-2-70b": shape("meta-llama/Llama-2-70b-hf", (80, 8192, 64, 8, 128, 28672, 32000), 4096),
    "codellama-34b": shape(
        "codellama/CodeLlama-34b-hf", (48, 8192, 64, 8, 128, 22016, 32000), 16384
    ),
    "llama-3-8b": shape("meta-llama/Meta-Llama-3-8B", (32, 4096, 32, 8, 128, 14336, 128256), 8192),
    "llama-3-70b": shape(
        "meta-llama/Meta-Llama-3-70B", (80, 8192, 64, 8, 128, 28672, 128256), 8192
    ),
    "llama-3.1-8b": shape("meta-llama/Llama-3.1-8B", (32, 4096, 32, 8, 128, 14336, 128256), _128K),
    "llama-3.1-70b": shape(
        "meta-llama/Llama-3.1-70B", (80, 8192, 64, 8, 128, 28672, 128256), _128K
    ),
    "llama-3.1-405b": shape(
        "meta-llama/Llama-3.1-405B", (126, 16384, 128, 8, 128, 53248, 128256), _128K
    ),
    "llama-3.2-1b": shape(
        "meta-llama/Llama-3.2-1B", (16, 2048, 32, 8, 64, 8192, 128256), _128K, tied=True
    ),
    "llama-3.2-3b": shape(
        "meta-llama/Llama-3.2-3B", (28, 3072, 24, 8, 128, 8192, 128256), _128K, tied=True
    ),
    "llama-3.3-70b": shape(
        "meta-llama/Llama-3.3-70B-Instruct", (80, 8192, 64, 8, 128, 28672, 128256), _128K
    ),
    "tinyllama-1.1b": shape(
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0", (22, 2048, 32, 4, 64, 5632, 32000), 2048
    ),
    "smollm2-135m": shape(
        "HuggingFaceTB/SmolLM2-135M", (30, 576, 9, 3, 64, 1536, 49152), 8192, tied=True
    ),
    "smollm2-360m": shape(
        "HuggingFaceTB/SmolLM2-360M", (32, 960, 15, 5, 64, 2560, 49152), 8192, tied=True
    ),
    "smollm2-1.7b": shape(
        "HuggingFaceTB/SmolLM2-1.7B", (24, 2048, 32, 32, 64, 8192, 49152), 8192, tied=True
    ),
    "smollm3-3b": shape(
        "HuggingFaceTB/SmolLM3-3B", (36, 2048, 16, 4, 128, 11008, 128256), 65536, tied=True
    ),
    "qwen2.5-0.5b": shape(
        "Qwen/Qwen2.5-0.5B", (24, 896, 14, 2, 64, 4864, 151936), 32768, tied=True
    ),
    "qwen2.5-1.5b": shape(
        "Qwen/Qwen2.5-1.5B", (28, 1536, 12, 2, 128, 8960, 151936), _128K, tied=True
    ),
    "qwen2.5-3b": shape("Qwen/Qwen2.5-3B", (36, 2048, 16, 2, 128, 11008, 151936), 32768, tied=True),
    "qwen2.5-7b": shape("Qwen/Qwen2.5-7B", (28, 3584, 28, 4, 128, 18944, 152064), _128K),
    "qwen2.5-14b": shape("Qwen/Qwen2.5-14B", (48, 5120, 40, 8, 128, 13824, 152064), _128K),
    "qwen2.5-32b": shape("Qwen/Qwen2.5-32B", (64, 5120, 40, 8, 128, 27648, 152064), _128K),
    "qwen2.5-72b": shape("Qwen/Qwen2.5-72B", (80, 8192, 64, 8, 128, 29568, 152064), _128K),
    "qwen3-0.6b": shape("Qwen/Qwen3-0.6B", (28, 1024, 16, 8, 128, 3072, 151936), 40960, tied=True),
    "qwen3-1.7b": shape("Qwen/Qwen3-1.7B", (28, 2048, 16, 8, 128, 6144, 151936), 40960, tied=True),
    "qwen3-4b": shape("Qwen/Qwen3-4B", (36, 2560, 32, 8, 128, 9728, 151936), 40960, tied=True),
    "qwen3-8b": shape("Qwen/Qwen3-8B", (36, 4096, 32, 8, 128, 12288, 151936), 40960),
    "qwen3-14b": shape("Qwen/Qwen3-14B", (40, 5120, 40, 8, 128, 17408, 151936), 40960),
    "qwen3-32b": shape("Qwen/Qwen3-32B", (64, 5120, 64, 8, 128, 25600, 151936), 40960),
    "mistral-7b": shape("mistralai/Mistral-7B-v0.1", (32, 4096, 32, 8, 128, 14336, 32000), 32768),
    "ministral-8b": shape(
        "mistralai/Ministral-8B-Instruct-2410", (36, 4096, 32, 8, 128, 12288, 131072), 32768
    ),
    "mistral-nemo": shape(
        "mistralai/Mistral-Nemo-Base-2407", (40, 5120, 32, 8, 128, 14336, 131072), _128K
    ),
    "mistral-small-22b": shape(
        "mistralai/Mistral-Small-Instruct-2409", (56, 6144, 48, 8, 128, 16384, 32768), 32768
    ),
    "mistral-small-24b": shape(
        "mistralai/Mistral-Small-24B-Base-2501", (40, 5120, 32, 8, 128, 32768, 131072), 32768
    ),
    "mistral-large": shape(
        "mistralai/Mistral-Large-Instruct-2407", (88, 12288, 96, 8, 128, 28672, 32768), _128K
    ),
    "gemma-2b": shape("google/gemma-2b", (18, 2048, 8, 1, 256, 16384, 256000), 8192, tied=True),
    "gemma-7b": shape("google/gemma-7b", (28, 3072, 16, 16, 256, 24576, 256000), 8192, tied=True),
    "gemma-2-2b": shape(
        "google/gemma-2-2b",
        (26, 2304, 8, 4, 256, 9216, 256000),
        8192,
        tied=True,
        windowed=(13, 4096),
    ),
    "gemma-2-9b": shape(
        "google/gemma-2-9b",
        (42, 3584, 16, 8, 256, 14336, 256000),
        8192,
        tied=True,
        windowed=(21, 4096),
    ),
    "gemma-2-27b": shape(
        "google/gemma-2-27b",
        (46, 4608, 32, 16, 128, 36864, 256000),
        8192,
        tied=True,
        windowed=(23, 4096),
    ),
    "gemma-3-1b": shape(
        "google/gemma-3-1b-pt",
        (26, 1152, 4, 1, 256, 6912, 262144),
        32768,
        tied=True,
        windowed=(22, 512),
    ),
    "gemma-3-4b": shape(
        "google/gemma-3-4b-pt",
        (34, 2560, 8, 4, 256, 10240, 262208),
        _128K,
        tied=True,
        windowed=(29, 1024),
    ),
    "gemma-3-12b": shape(
        "google/gemma-3-12b-pt",
        (48, 3840, 16, 8, 256, 15360, 262208),
        _128K,
        tied=True,
        windowed=(40, 1024),
    ),
    "gemma-3-27b": shape(
        "google/gemma-3-27b-pt",
        (62, 5376, 32, 16, 128, 21504, 262208),
        _128K,
        tied=True,
        windowed=(52, 1024),
    ),
    "phi-2": shape("microsoft/phi-2", (32, 2560, 32, 32, 80, 10240, 51200), 2048, plain_mlp=True),
    "phi-3-mini": shape(
        "microsoft/Phi-3-mini-4k-instruct", (32, 3072, 32, 32, 96, 8192, 32064), 4096
    ),
    "phi-3-medium": shape(
        "microsoft/Phi-3-medium-4k-instruct", (40, 5120, 40, 10, 128, 17920, 32064), 4096
    ),
    "phi-4": shape("microsoft/phi-4", (40, 5120, 40, 10, 128, 17920, 100352), 16384),
    "phi-4-mini": shape(
        "microsoft/Phi-4-mini-instruct", (32, 3072, 24, 8, 128, 8192, 200064), _128K, tied=True
    ),
    "olmo-2-7b": shape("allenai/OLMo-2-1124-7B", (32, 4096, 32, 32, 128, 11008, 100352), 4096),
    "olmo-2-13b": shape("allenai/OLMo-2-1124-13B", (40, 5120, 40, 40, 128, 13824, 100352), 4096),
    "olmo-2-32b": shape("allenai/OLMo-2-0325-32B", (64, 5120, 40, 8, 128, 27648, 100352), 4096),
    "falcon-7b": shape(
        "tiiuae/falcon-7b", (32, 4544, 71, 1, 64, 18176, 65024), 2048, tied=True, plain_mlp=True
    ),
    "yi-1.5-9b": shape("01-ai/Yi-1.5-9B", (48, 4096, 32, 4, 128, 11008, 64000), 4096),
    "yi-1.5-34b": shape("01-ai/Yi-1.5-34B", (60, 7168, 56, 8, 128, 20480, 64000), 4096),
    "internlm2.5-7b": shape("internlm/internlm2_5-7b", (32, 4096, 32, 8, 128, 14336, 92544), 32768),
    "command-r": shape(
        "CohereForAI/c4ai-command-r-v01", (40, 8192, 64, 64, 128, 22528, 256000), _128K, tied=True
    ),
    "command-r-plus": shape(
        "CohereForAI/c4ai-command-r-plus", (64, 12288, 96, 8, 128, 33792, 256000), _128K, tied=True
    ),
    "granite-3.1-2b": shape(
        "ibm-granite/granite-3.1-2b-base", (40, 2048, 32, 8, 64, 8192, 49155), _128K, tied=True
    ),
    "granite-3.1-8b": shape(
        "ibm-granite/granite-3.1-8b-base", (40, 4096, 32, 8, 128, 12800, 49155), _128K, tied=True
    ),
    "starcoder2-15b": shape(
        "bigcode/starcoder2-15b", (40, 6144, 48, 4, 128, 24576, 49152), 16384, plain_mlp=True
    ),
}
