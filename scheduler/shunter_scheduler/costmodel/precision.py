"""How many bytes a weight takes, and which arithmetic its products run in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Arithmetic = Literal["bf16", "fp8", "int8"]
# Which weights are stored so: products of every layer, products of routed experts, or all weights.
Scope = Literal["linear", "experts", "all"]


@dataclass(frozen=True, slots=True)
class Precision:
    """`weight_bytes` counts the scales of groups. What lies outside of `scope` has 2 bytes."""

    name: str
    weight_bytes: float
    arithmetic: Arithmetic = "bf16"
    scope: Scope = "linear"


BF16 = Precision("bf16", 2.0)
FP8 = Precision("fp8", 1.0, "fp8")
INT8 = Precision("int8", 1.0, "int8")  # weights and activations
INT8_WEIGHTS = Precision("int8-weights", 1.0)
# Groups of 128 with a scale of 16 bits and a zero point of 4.
INT4 = Precision("int4", (4 + 20 / 128) / 8)
# Blocks of 32 with a scale of 8 bits (OCP Microscaling Formats 1.0); computed in bf16.
MXFP4_EXPERTS = Precision("mxfp4", (4 + 8 / 32) / 8, scope="experts")

# GGUF files, bits per weight: of the plain types their blocks of 32 with scales, of the mixes what
# llama.cpp's `tools/quantize/README.md` states for Llama-3.1-8B.
_GGUF_BITS: Mapping[str, float] = {
    "q2_k": 3.16,
    "q3_k_s": 3.64,
    "q3_k_m": 4.0,
    "q3_k_l": 4.30,
    "q4_0": 4.5,
    "q4_1": 5.0,
    "q4_k_s": 4.67,
    "q4_k_m": 4.89,
    "q5_0": 5.5,
    "q5_1": 6.0,
    "q5_k_s": 5.57,
    "q5_k_m": 5.70,
    "q6_k": 6.56,
    "q8_0": 8.5,
    "f16": 16.0,
    "bf16": 16.0,
    "f32": 32.0,
}
_OVERHEAD_BITS = 0.5  # of scales, for types that are not listed

_BY_SUFFIX: tuple[tuple[re.Pattern[str], Precision], ...] = (
    (re.compile(r"[-.](gptq-int8|w8a16|8bit)$"), INT8_WEIGHTS),
    (re.compile(r"[-.](awq|gptq|gptq-int4|awq-int4|w4a16|int4|4bit|bnb-4bit)$"), INT4),
    (re.compile(r"[-.](fp8|fp8-dynamic|fp8-kv)$"), FP8),
    (re.compile(r"[-.](w8a8|int8)$"), INT8),
)
_GGUF = re.compile(r"[.-](i?q(\d)\w*|f16|bf16|f32)(\.gguf)?$")


def precision_of_name(name: str) -> tuple[str, Precision | None]:
    """A model's name without the suffix that tells how it is quantised, such as `-AWQ`, `-FP8` or
    `.Q4_K_M.gguf`, and what that suffix means; None where there is none."""
    name = name.lower()
    if found := _GGUF.search(name):
        bits = _GGUF_BITS.get(found[1]) or int(found[2]) + _OVERHEAD_BITS
        return name[: found.start()], Precision(found[1], bits / 8, scope="all")
    for pattern, precision in _BY_SUFFIX:
        if found := pattern.search(name):
            return name[: found.start()], precision
    return name, None


# Tensor cores that multiply 8-bit floats do so at twice the rate of bf16; so do those that multiply
# 8-bit integers, which all of the catalogue's NVIDIA GPUs have (data sheets; GenZ, arXiv
# 2406.01698, uses the same factors). Elsewhere weights are widened first.
_FP8_CHIPS = frozenset({"h100", "h200", "l4", "l40", "l40s", "mi300x"})
_INT8_CHIPS = _FP8_CHIPS | {"a100", "a800", "a10", "a40", "a6000"}


def speed_up(arithmetic: Arithmetic, accelerator_key: str) -> float:
    """Of products over those in bf16."""
    chip = accelerator_key.partition("-")[0]
    chips = {"fp8": _FP8_CHIPS, "int8": _INT8_CHIPS}.get(arithmetic, frozenset())
    return 2.0 if chip in chips else 1.0
