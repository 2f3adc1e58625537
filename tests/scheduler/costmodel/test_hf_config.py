"""Shapes read from files as publishers write them, against the catalogue."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_configs import LLAMA_31_8B
from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import (
    ModelShape,
    UnsupportedConfig,
    cost_model,
    model_shape,
    shape_from_config,
)
from shunter_scheduler.costmodel.precision import BF16

QWEN25_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "sliding_window": None,
    "vocab_size": 32000,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "head_dim": 128,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "tie_word_embeddings": False,
    "vocab_size": 129280,
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
GEMMA_3_27B = {
    "model_type": "gemma3",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
}
LLAMA_4_MAVERICK = {
    "model_type": "llama4",
    "text_config": {
        "attention_chunk_size": 8192,
        "head_dim": 128,
        "hidden_size": 5120,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "max_position_embeddings": 1048576,
        "model_type": "llama4_text",
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "tie_word_embeddings": False,
        "vocab_size": 202048,
    },
}
FALCON_7B = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "multi_query": True,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "vocab_size": 65024,
}
PHI_2 = {
    "model_type": "phi",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 51200,
}


def read(config: dict[str, Any], **changed: Any) -> ModelShape:
    return shape_from_config(json.dumps({**config, **changed}).encode(), "the model")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA_31_8B, "llama-3.1-8b"),
        (QWEN25_7B, "qwen2.5-7b"),
        (QWEN3_30B, "qwen3-30b-a3b"),
        (MIXTRAL, "mixtral-8x7b"),
        (DEEPSEEK_V3, "deepseek-v3"),
        (GPT_OSS_20B, "gpt-oss-20b"),
        (GEMMA_3_27B, "gemma-3-27b"),
        (GEMMA_3_4B, "gemma-3-4b"),
        (LLAMA_4_MAVERICK, "llama-4-maverick-17b-128e"),
        (PHI_2, "phi-2"),
    ],
)
def test_a_published_file_gives_the_shape_of_the_catalogue(
    config: dict[str, Any], name: str
) -> None:
    known = model_shape(name)
    assert read(config) == replace(known, name="the model", source="the model")


def test_what_old_families_leave_out_is_their_default() -> None:
    shape, known = read(FALCON_7B), model_shape("falcon-7b")
    assert shape.parameters == known.parameters
    assert shape.kv_heads == 1
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024}
    shape = read(gpt2, vocab_size=50257)
    assert shape.parameters / 1e6 == pytest.approx(124, rel=0.01)
    assert shape.context_length == 1024


@pytest.mark.parametrize(
    ("config", "stored", "weight_bytes", "kv_bytes"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 0.52, 2),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 1.023, 2),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.539, 2),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8-weights", 1.0, 2),
        ({"quant_method": "something-new"}, "bf16", 2.0, 2),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "float"},
                        "input_activations": {"num_bits": 8, "type": "float"},
                    }
                },
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "fp8",
            1.0,
            1,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "int"},
                        "input_activations": {"num_bits": 8, "type": "int"},
                    }
                },
            },
            "int8",
            1.0,
            2,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}
                },
            },
            "int4",
            0.52,
            2,
        ),
    ],
)
def test_the_file_says_how_weights_and_cache_are_stored(
    config: dict[str, Any], stored: str, weight_bytes: float, kv_bytes: int
) -> None:
    shape = read(LLAMA_31_8B, quantization_config=config)
    assert (shape.weights.name, shape.kv_dtype_bytes) == (stored, kv_bytes)
    assert shape.weights.weight_bytes == pytest.approx(weight_bytes, rel=0.01)
    assert read(LLAMA_31_8B).weights == BF16


@pytest.mark.parametrize(
    ("changed", "windowed", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 32, 4096),
        ({"model_type": "mistral", "sliding_window": None}, 0, 0),
        ({"model_type": "gemma2", "sliding_window": 4096}, 16, 4096),
        ({"sliding_window": 512, "sliding_window_pattern": "LLLG"}, 24, 512),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, 24, 512),
    ],
)
def test_windows_follow_the_family_s_pattern(
    changed: dict[str, Any], windowed: int, window: int
) -> None:
    shape = read(LLAMA_31_8B, **changed)
    assert (shape.windowed_layers, shape.window) == (windowed, window)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "the model has no num_hidden_layers"),
        ({**LLAMA_31_8B, "num_hidden_layers": "many"}, "num_hidden_layers"),
        ({**LLAMA_31_8B, "hidden_size": -1}, "hidden_size"),
        ({**LLAMA_31_8B, "mamba_d_state": 16}, "layers that keep a state"),
        ({**LLAMA_31_8B, "layer_types": ["linear_attention"]}, "layers that keep a state"),
        ({**LLAMA_31_8B, "model_type": "t5", "is_encoder_decoder": True}, "not a decoder alone"),
        ({**LLAMA_31_8B, "text_config": "none"}, "the model: "),
    ],
)
def test_a_file_that_cannot_be_predicted_says_why(config: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedConfig, match=why):
        read(config)


def test_what_is_no_json_object_is_refused() -> None:
    for content in (b"[]", b"{", b"\xff", b" " * 2_000_000):
        with pytest.raises(UnsupportedConfig, match="the model"):
            shape_from_config(content, "the model")


sizes = st.one_of(st.none(), st.integers(-2, 1 << 33))


@settings(deadline=None)
@given(
    changed=st.dictionaries(
        st.sampled_from(
            [*QWEN3_30B, *DEEPSEEK_V3, *GPT_OSS_20B, "n_head", "sliding_window_pattern"]
        ),
        st.one_of(sizes, st.booleans(), st.text(max_size=4), st.lists(st.integers(), max_size=3)),
        max_size=4,
    ),
    base=st.sampled_from([LLAMA_31_8B, QWEN3_30B, DEEPSEEK_V3, GPT_OSS_20B]),
)
def test_a_strange_file_is_refused_or_gives_times(
    changed: dict[str, Any], base: dict[str, Any]
) -> None:
    try:
        model = cost_model(read(base, **changed), accelerator("h100"))
    except ValueError:
        return
    assert model.kv_capacity_tokens > 0
    assert model.prefill_s(100) > 0
