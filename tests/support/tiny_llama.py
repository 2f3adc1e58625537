"""A random Llama in the form that vLLM and transformers load, written without either."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIALS = ("<s>", "</s>", "<pad>")  # ids 0 to 2; each byte has one of the ids after them
VOCABULARY = len(SPECIALS) + 256


@dataclass(frozen=True, slots=True)
class LlamaShape:
    layers: int = 2
    width: int = 64
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 32
    feed_forward: int = 128
    context_length: int = 4096


def write_tiny_llama(folder: Path, shape: LlamaShape | None = None, seed: int = 0) -> None:
    """Config, float32 weights and a byte-level tokenizer. Large weights make answers varied."""
    shape = shape or LlamaShape()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1))
    _write_safetensors(folder / "model.safetensors", _weights(shape, seed))
    _write_tokenizer(folder, shape.context_length)


def _config(shape: LlamaShape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def _weights(shape: LlamaShape, seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        drawn = rng.standard_normal((rows, columns), dtype=np.float32)
        return drawn * np.float32(2.5 / math.sqrt(columns))

    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, shape.width),
        "model.norm.weight": np.ones(shape.width, np.float32),
        "lm_head.weight": matrix(VOCABULARY, shape.width),
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        weights |= {
            f"{at}input_layernorm.weight": np.ones(shape.width, np.float32),
            f"{at}post_attention_layernorm.weight": np.ones(shape.width, np.float32),
            f"{at}self_attn.q_proj.weight": matrix(query, shape.width),
            f"{at}self_attn.k_proj.weight": matrix(keys, shape.width),
            f"{at}self_attn.v_proj.weight": matrix(keys, shape.width),
            f"{at}self_attn.o_proj.weight": matrix(shape.width, query),
            f"{at}mlp.gate_proj.weight": matrix(shape.feed_forward, shape.width),
            f"{at}mlp.up_proj.weight": matrix(shape.feed_forward, shape.width),
            f"{at}mlp.down_proj.weight": matrix(shape.width, shape.feed_forward),
        }
    return weights


def _write_safetensors(path: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    """Length of the header, header in JSON, tensors (github.com/huggingface/safetensors)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for array in weights.values():
            file.write(array.tobytes())


def _write_tokenizer(folder: Path, context_length: int) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*SPECIALS, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": context_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
