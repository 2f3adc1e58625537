"""What an engine's command line says about weights, KV cache, memory and its batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shunter_api.arguments import last_value
from shunter_api.engine import LLAMA_SLOTS, Engine
from shunter_scheduler.costmodel import ModelShape
from shunter_scheduler.costmodel.precision import BF16, FP8, INT4, INT8_WEIGHTS, Precision
from shunter_scheduler.costmodel.roofline import MEMORY_FOR_ENGINE

# `--quantization` of vLLM and SGLang, of weights whose file may be whole.
_QUANTIZATION: Mapping[str, Precision] = {
    "fp8": FP8,
    "awq": INT4,
    "awq_marlin": INT4,
    "gptq": INT4,
    "gptq_marlin": INT4,
    "bitsandbytes": INT4,
    "experts_int8": INT8_WEIGHTS,
    "w8a8_fp8": FP8,
}


# Sequences that run at once: vLLM's and `shunter engine`'s, SGLang's, llama-server's option.
_MAX_NUM_SEQS = ("--max-num-seqs", "--max-running-requests", "--parallel", "-np")


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """`weights` and `kv_dtype_bytes` are None where the model's own files decide, `max_num_seqs`
    where the engine does."""

    memory_share: float = MEMORY_FOR_ENGINE
    weights: Precision | None = None
    kv_dtype_bytes: int | None = None
    max_num_seqs: int | None = None

    def applied(self, shape: ModelShape) -> ModelShape:
        """What the model's own files say about its weights goes before the command line."""
        if self.weights is not None and shape.weights == BF16:
            shape = replace(shape, weights=self.weights)
        if self.kv_dtype_bytes is not None:
            shape = replace(shape, kv_dtype_bytes=self.kv_dtype_bytes)
        return shape


def arguments_of(engine: Engine) -> EngineArguments:
    """Those about memory of vLLM and SGLang (whose `--mem-fraction-static` is weights and KV cache,
    too): the others have none that change what a step costs by much.
    What cannot be read is as if it were not there: the engine itself refuses it."""
    max_num_seqs = _count(last_value(engine.args, *_MAX_NUM_SEQS))
    if engine.type not in ("vllm", "sglang"):
        if max_num_seqs is None and engine.type == "llamacpp":
            max_num_seqs = LLAMA_SLOTS
        return EngineArguments(max_num_seqs=max_num_seqs)
    share = last_value(engine.args, "--gpu-memory-utilization", "--mem-fraction-static")
    quantization = last_value(engine.args, "--quantization", "-q")
    cache = last_value(engine.args, "--kv-cache-dtype").lower()
    return EngineArguments(
        memory_share=_share(share),
        weights=_QUANTIZATION.get(quantization.lower()),
        kv_dtype_bytes=1 if cache.startswith(("fp8", "int8")) else None,
        max_num_seqs=max_num_seqs,
    )


def computes_higher_first(engine: Engine) -> bool:
    """Of the prompts that wait in the engine it computes those of a higher class first, as requests
    tell it by `priority`. vLLM does where its scheduling policy is `priority`, which the operator
    sets unless the arguments name another."""
    if engine.type == "vllm":
        return last_value(engine.args, "--scheduling-policy") in ("", "priority")
    return engine.type in ("simulated", "numpy", "sglang")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        return MEMORY_FOR_ENGINE
    return share if 0 < share <= 1 else MEMORY_FOR_ENGINE


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) > 0 else None
