"""A model's shape from its `config.json`, as Hugging Face's transformers names the fields."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from shunter_scheduler.costmodel.quantization import stored_as
from shunter_scheduler.costmodel.shapes import Latent, ModelShape

MAX_CONFIG_BYTES = 1 << 20

_PLAIN_MLP = frozenset(
    {
        "bloom",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gptj",
        "mpt",
        "opt",
        "phi",
        "starcoder2",
    }
)
# Families whose configuration class ties input and output embeddings where the file says nothing.
_TIED = frozenset(
    {"bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2"}
    | {"gpt_bigcode", "mpt", "opt", "smollm3"}
)
_WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}  # one in n sees all
_NOT_A_DECODER = frozenset(
    {"bert", "roberta", "t5", "mt5", "bart", "whisper", "clip", "xlm-roberta"}
)
# Layers that keep a state instead of keys and values: their times follow other formulas.
_RECURRENT = ("mamba", "ssm_", "linear_attn", "linear_num_", "rwkv", "lru_", "conv_L_cache")


# What a family's files leave out where it is as the configuration class has it.
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    }
}

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]


class UnsupportedConfig(ValueError):
    """The file does not describe a transformer whose times can be predicted; says why."""


class _Config(msgspec.Struct):
    """The fields that count, under the names that families give them. Absent: None or empty."""

    model_type: str = ""
    name: str = msgspec.field(default="", name="_name_or_path")
    is_encoder_decoder: bool = False
    text_config: dict[str, Any] | None = None

    num_hidden_layers: Count | None = None
    n_layer: Count | None = None
    num_layers: Count | None = None
    hidden_size: Count | None = None
    n_embd: Count | None = None
    d_model: Count | None = None
    num_attention_heads: Count | None = None
    n_head: Count | None = None
    n_heads: Count | None = None
    num_key_value_heads: Count | None = None
    num_kv_heads: Count | None = None
    multi_query: bool = False
    head_dim: Count | None = None
    intermediate_size: Count | None = None
    ffn_dim: Count | None = None
    n_inner: Count | None = None
    vocab_size: Count | None = None
    tie_word_embeddings: bool | None = None
    max_position_embeddings: Count | None = None
    n_positions: Count | None = None

    num_local_experts: Count | None = None
    num_experts: Count | None = None
    n_routed_experts: Count | None = None
    num_experts_per_tok: Count | None = None
    moe_intermediate_size: Count | None = None
    n_shared_experts: Count | None = None
    shared_expert_intermediate_size: Count | None = None
    first_k_dense_replace: Count | None = None
    decoder_sparse_step: Count | None = None
    mlp_only_layers: list[Count] | None = None
    interleave_moe_layer_step: Count | None = None
    intermediate_size_mlp: Count | None = None

    kv_lora_rank: Count | None = None
    q_lora_rank: Count | None = None
    qk_rope_head_dim: Count | None = None
    qk_nope_head_dim: Count | None = None
    v_head_dim: Count | None = None

    sliding_window: Count | None = None
    use_sliding_window: bool = True
    sliding_window_pattern: Count | str | None = None
    layer_types: list[str] | None = None
    attention_chunk_size: Count | None = None
    quantization_config: dict[str, Any] | None = None


def shape_from_config(content: bytes, name: str = "") -> ModelShape:
    """`name` is used in messages and as the shape's name; empty: the one in the file.

    Raises `UnsupportedConfig`.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise UnsupportedConfig(f"{name or 'config.json'} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        raw = msgspec.json.decode(content, type=dict[str, Any])
        raw = {**raw, **(raw.get("text_config") or {})}  # of models that also read images
        raw = {**_DEFAULTS.get(str(raw.get("model_type")), {}), **raw}
        config = msgspec.convert(raw, _Config)
    except (msgspec.MsgspecError, TypeError) as error:
        raise UnsupportedConfig(f"{name or 'config.json'}: {error}") from error
    name = name or config.name or config.model_type or "config.json"
    _check_supported(name, config, raw)
    return _shape(name, config)


def _check_supported(name: str, config: _Config, raw: dict[str, Any]) -> None:
    if config.is_encoder_decoder or config.model_type in _NOT_A_DECODER:
        raise UnsupportedConfig(f"{name} is a {config.model_type} model, not a decoder alone")
    recurrent = [key for key in raw if key.startswith(_RECURRENT)]
    if recurrent or "linear_attention" in (config.layer_types or ()):
        told = recurrent[0] if recurrent else "linear_attention"
        raise UnsupportedConfig(
            f"{name} has layers that keep a state ({told}); only attention is modelled"
        )


def _shape(name: str, c: _Config) -> ModelShape:
    layers = _first(name, "num_hidden_layers", c.num_hidden_layers, c.n_layer, c.num_layers)
    hidden = _first(name, "hidden_size", c.hidden_size, c.n_embd, c.d_model)
    heads = _first(name, "num_attention_heads", c.num_attention_heads, c.n_head, c.n_heads)
    wide = c.intermediate_size or c.ffn_dim or c.n_inner or 4 * hidden
    experts = c.n_routed_experts or c.num_local_experts or c.num_experts or 1
    dense_layers = _dense_layers(layers, c) if experts > 1 else 0
    weights, kv_dtype_bytes = stored_as(name, c.quantization_config)
    windowed, window = _windows(layers, c)
    return ModelShape(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(heads, c),
        head_dim=c.head_dim or max(1, hidden // heads),
        mlp_hidden=c.moe_intermediate_size or wide if experts > 1 else wide,
        vocab=_first(name, "vocab_size", c.vocab_size),
        tied_embeddings=_or(c.tie_word_embeddings, c.model_type in _TIED),
        context_length=c.max_position_embeddings or c.n_positions or 4096,
        experts=experts,
        active_experts=min(experts, c.num_experts_per_tok or 1),
        shared_mlp_hidden=_shared(c, wide) if experts > 1 else 0,
        dense_layers=dense_layers,
        dense_mlp_hidden=(c.intermediate_size_mlp or wide) if dense_layers else 0,
        mlp_matrices=2 if c.model_type in _PLAIN_MLP else 3,
        latent=_latent(c),
        window=window,
        windowed_layers=windowed,
        kv_dtype_bytes=kv_dtype_bytes,
        weights=weights,
        source=name,
    )


def _first(name: str, field: str, *values: int | None) -> int:
    for value in values:
        if value is not None and value > 0:
            return value
    raise UnsupportedConfig(f"{name} has no {field}: not the config.json of a language model?")


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _kv_heads(heads: int, c: _Config) -> int:
    if c.multi_query and not c.num_kv_heads:
        return 1
    return c.num_key_value_heads or c.num_kv_heads or heads


def _dense_layers(layers: int, c: _Config) -> int:
    """Of a model with experts: the first few, every other one, or those that are listed."""
    dense = c.first_k_dense_replace or 0
    if (step := c.interleave_moe_layer_step or c.decoder_sparse_step or 1) > 1:
        dense += layers - layers // step
    return min(layers - 1, dense + len(c.mlp_only_layers or ()))


def _shared(c: _Config, wide: int) -> int:
    if c.shared_expert_intermediate_size:
        return c.shared_expert_intermediate_size
    if c.model_type.startswith("llama4"):
        return wide  # one expert's width; the file does not say it
    return (c.n_shared_experts or 0) * (c.moe_intermediate_size or wide)


def _latent(c: _Config) -> Latent | None:
    if not c.kv_lora_rank:
        return None
    return Latent(
        kv_rank=c.kv_lora_rank,
        rope_dim=c.qk_rope_head_dim or 0,
        nope_dim=c.qk_nope_head_dim or 128,
        value_dim=c.v_head_dim or 128,
        q_rank=c.q_lora_rank or 0,
    )


def _windows(layers: int, c: _Config) -> tuple[int, int]:
    """How many layers attend to how many tokens only."""
    window = c.sliding_window or c.attention_chunk_size or 0
    if not window or not c.use_sliding_window:
        return 0, 0
    if c.layer_types:
        return _count(c.layer_types, ("sliding_attention", "chunked_attention")), window
    if c.attention_chunk_size and not c.sliding_window:
        return layers - layers // 4, window  # Llama 4: one layer in four sees all
    pattern = c.sliding_window_pattern or _WINDOW_PATTERN.get(c.model_type, 0)
    if isinstance(pattern, str):  # one letter a layer, such as LLLG
        return layers * pattern.count("L") // len(pattern), window
    return (layers - layers // pattern if pattern else layers), window


def _count(values: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(value in wanted for value in values)
