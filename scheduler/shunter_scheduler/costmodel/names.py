"""Finding a model's shape by what it is called."""

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

from shunter_scheduler.costmodel.catalogue import SHAPES
from shunter_scheduler.costmodel.precision import precision_of_name
from shunter_scheduler.costmodel.shapes import ModelShape

# What does not change the architecture: fine-tunes, versions, release dates, formats.
_VARIANT = re.compile(
    r"-(instruct|chat|hf|it|pt|qat|base|original|preview|thinking|quantized|latest|v\d(\.\d)?|\d{4}|\d+k|"
    r"gguf)$|\.gguf$"
)
# Models of another name and the same architecture: parts of names, tried in this order.
_SAME_AS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), key)
    for pattern, key in (
        (r"^deepseek-r1-distill-qwen-(\d+\.?\d*b)$", r"qwen2.5-\1"),
        (r"^deepseek-r1-distill-llama-(\d+b)$", r"llama-3.1-\1"),
        (r"^deepseek-(r1|v3\.1|v3|chat-v3)$", "deepseek-v3"),
        (r"^deepseek-(coder-)?v2(-lite)?$", r"deepseek-v2\2"),
        (r"^qwen2\.5-(coder|math)-", "qwen2.5-"),
        (r"^qwen3-coder-30b", "qwen3-30b"),
        (r"^qwq-32b$", "qwen2.5-32b"),
        (r"^codellama-(7b|13b|70b).*$", r"llama-2-\1"),
        (r"^codellama-34b.*$", "codellama-34b"),
        (r"^llama-3\.1-nemotron-70b.*$", "llama-3.1-70b"),
        (r"^mistral-small-3\.\d-24b$", "mistral-small-24b"),
        (r"^codestral-22b$|^mistral-small$", "mistral-small-22b"),
        (r"^mistral-nemo-12b$", "mistral-nemo"),
        (r"^mistral-large-123b$", "mistral-large"),
        (r"^phi-3\.5-mini$", "phi-3-mini"),
        (r"^phi-4-reasoning(-plus)?$", "phi-4"),
        (r"^granite-3\.\d-", "granite-3.1-"),
        (r"^olmo-2-\d{4}-", "olmo-2-"),
        (r"^c4ai-command-r", "command-r"),
        (r"^llama-1-|^llama-33b$", "llama-30b"),
        (r"^vicuna-(7b|13b).*$", r"llama-2-\1"),
    )
)
_NAMED: Mapping[str, str] = {"internlm2_5-7b": "internlm2.5-7b", "kimi-k2-0905": "kimi-k2"}


class UnknownModel(ValueError):
    """No architecture is known under this name. The message names near misses."""


def model_shape(source_or_name: str) -> ModelShape:
    """Finds a shape by `sim://llama-3.1-8b`, `hf://meta-llama/Llama-3.1-8B` or a plain name. A
    suffix such as `-AWQ` or `.Q4_K_M.gguf` says how the weights are stored.

    Raises `UnknownModel`.
    """
    name = source_or_name.rstrip("/").rpartition("/")[2].lower()
    name = name.partition("?")[0].partition("@")[0].removeprefix("meta-")
    name, precision = precision_of_name(_stripped(name))
    key = _known_as(_stripped(name))
    shape = SHAPES.get(key)
    if shape is None:
        near = get_close_matches(key, SHAPES, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(SHAPES))}"
        raise UnknownModel(f"no architecture is known for model {source_or_name!r}; {hint}")
    return shape if precision is None else replace(shape, weights=precision)


def _stripped(name: str) -> str:
    while name not in SHAPES and (shorter := _VARIANT.sub("", name)) != name:
        name = shorter
    return name


def _known_as(name: str) -> str:
    name = _NAMED.get(name, name)
    for pattern, key in _SAME_AS:
        if name not in SHAPES:
            name = _stripped(pattern.sub(key, name))
    return name
