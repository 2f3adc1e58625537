"""What of a model's architecture decides how fast it runs, and how to find it by name."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from shunter_scheduler.costmodel.catalogue import ROWS

_VARIANT = re.compile(r"-(instruct|chat|hf|it|base|v0\.\d)$|[.-](q\d\w*|bf16|f16|f32)$|\.gguf$")


class UnknownModel(ValueError):
    """No architecture is known under this name. The message names near misses."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer with grouped-query attention and a gated MLP.

    `experts` is 1 for dense models; `mlp_hidden` is the width of one expert.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_hidden: int
    vocab: int
    tied_embeddings: bool = False
    context_length: int = 4096
    experts: int = 1
    active_experts: int = 1
    dtype_bytes: int = 2
    source: str = ""

    @property
    def attention_parameters(self) -> int:
        """Of the four projections of one layer."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Of one expert (a dense layer has one) of one layer: gate, up and down."""
        return 3 * self.hidden * self.mlp_hidden

    @property
    def head_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        router = self.hidden * self.experts if self.experts > 1 else 0
        layer = self.attention_parameters + self.experts * self.expert_parameters + router
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return self.layers * layer + embeddings


def model_shape(source_or_name: str) -> ModelShape:
    """Finds a shape by `sim://llama-3.1-8b`, `hf://meta-llama/Llama-3.1-8B` or a plain name.

    Raises `UnknownModel`.
    """
    key = _canonical(source_or_name)
    row = ROWS.get(key)
    if row is None:
        near = get_close_matches(key, ROWS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(ROWS))}"
        raise UnknownModel(f"no architecture is known for model {source_or_name!r}; {hint}")
    return ModelShape(name=key, **row)


def _canonical(source_or_name: str) -> str:
    key = source_or_name.rstrip("/").rpartition("/")[2].lower()
    key = key.partition("?")[0].partition("@")[0].removeprefix("meta-")
    while (shorter := _VARIANT.sub("", key)) != key:
        key = shorter
    return key
