"""A tiny random Llama as a GGUF file: what tests of the NumPy engine run on instead of weights.

Byte-level BPE with ChatML, so that text goes the same way as with a real model. Needs `gguf`.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import pre_tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "i n", "e r", "Ġ a", "Ġ t", "th e", "Ġt h", "a n", "o n", "in g")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Two query heads share a KV head, as in larger models."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 96
    context_length: int = 2048
    tied: bool = True


def tiny_vocabulary() -> list[str]:
    """Special tokens, the 256 bytes in GPT-2's alphabet, and the merges' results."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL_TOKENS, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]


def write_tiny_gguf(path: Path, seed: int = 0, shape: TinyShape | None = None) -> Path:
    """About 300 KB. The same seed and shape give the same file."""
    shape = shape or TinyShape()
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_metadata(writer, shape)
    _write_tokenizer(writer)
    rng = np.random.default_rng(seed)
    for name, tensor in _tensors(shape, len(tiny_vocabulary()), rng).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: gguf.GGUFWriter, shape: TinyShape) -> None:
    writer.add_name("tiny-random")
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tiny_vocabulary()))


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = tiny_vocabulary()
    control = len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * control + [1] * (len(tokens) - control))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(
    shape: TinyShape, vocabulary: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float32]]:
    def matrix(rows: int, columns: int, gain: float) -> npt.NDArray[np.float32]:
        scale = np.float32(gain / np.sqrt(columns))
        return rng.standard_normal((rows, columns), np.float32) * scale

    def norm() -> npt.NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, shape.width).astype(np.float32)

    width, kv_width = shape.width, shape.kv_heads * (shape.width // shape.heads)
    tensors = {"token_embd": matrix(vocabulary, width, 8.0), "output_norm": norm()}
    if not shape.tied:
        tensors["output"] = matrix(vocabulary, width, 3.0)
    for layer in range(shape.layers):
        tensors |= {
            f"blk.{layer}.attn_norm": norm(),
            f"blk.{layer}.attn_q": matrix(width, width, 2.0),
            f"blk.{layer}.attn_k": matrix(kv_width, width, 2.0),
            f"blk.{layer}.attn_v": matrix(kv_width, width, 1.0),
            f"blk.{layer}.attn_output": matrix(width, width, 4.0),
            f"blk.{layer}.ffn_norm": norm(),
            f"blk.{layer}.ffn_gate": matrix(shape.feed_forward, width, 1.0),
            f"blk.{layer}.ffn_up": matrix(shape.feed_forward, width, 1.0),
            f"blk.{layer}.ffn_down": matrix(width, shape.feed_forward, 4.0),
        }
    return tensors
