"""`engines` of a scenario: how the engines of a profile really behave."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shunter_api.base import Int, Resource
from shunter_simulator.scenarios.values import Share

CACHE_BLOCK_TOKENS = 64
"""Of the stretches in which prefixes are shared, by engines and by the scheduler's index."""

Milliseconds = Annotated[float, Field(ge=0, le=1e6)]


class ExplicitTimes(Resource):
    """Step times as a formula, in milliseconds."""

    prefill_base_ms: Annotated[float, Field(gt=0, le=1e6)]
    """Of a step that computes prompts."""

    prefill_token_ms: Milliseconds
    """Per prompt token in the step."""

    prefill_square_token_ms: Milliseconds = 0.0
    """Per square of each prompt's tokens in the step."""

    decode_base_ms: Annotated[float, Field(gt=0, le=1e6)]
    """Of a step that continues answers."""

    decode_sequence_ms: Milliseconds
    """Per answer in the step."""

    decode_context_token_ms: Milliseconds
    """Per token, prompt and answer together, of all answers in the step."""


class EngineSettings(Resource):
    """How the engines of one profile behave. What is absent follows from the model's shape and the
    accelerator's data sheet."""

    measured: Literal["llama-7b-a10", "llama-30b-4xa10"] | None = None
    """Step times fitted to published measurements of this model on this GPU."""

    times: ExplicitTimes | None = None
    """Step times as a formula; absent, and without `measured`: the cost model's."""

    kv_tokens: Annotated[Int, Field(ge=64, le=1_000_000_000)] | None = None
    """KV memory in tokens; absent: the cost model's."""

    kv_bytes_per_token: Annotated[Int, Field(ge=1, le=1_000_000_000)] | None = None
    """Of all layers; what a copy carries. Absent: the model's."""

    block_tokens: Annotated[Int, Field(ge=1, le=4096)] = 16
    """Tokens in a block of KV memory."""

    watermark: Share = 0.01
    """Share of the blocks that a prompt must leave free to be let in."""

    max_num_seqs: Annotated[Int, Field(ge=1, le=100_000)] = 256
    """Answers in one step."""

    max_batch_tokens: Annotated[Int, Field(ge=1, le=10_000_000)] = 2048
    """Tokens in one step."""

    batching: Literal["chunked", "prefill-first"] = "chunked"
    """chunked: steps mix parts of prompts with answers; prefill-first: a step computes whole
    prompts or continues answers, as vLLM did before it had chunks."""

    yield_steps: Annotated[Int, Field(ge=0, le=10_000)] = 0
    """Prompts of a higher class go before those of lower ones that are computed in part, and lower
    classes' answers stand still for them, at most so many steps in a row; 0: neither, as in vLLM.
    For chunked engines."""

    prefix_caching: bool = True
    """Computed blocks of prompts are found again by later ones that begin alike."""

    prior: Annotated[float, Field(gt=0, le=100)] = 1.0
    """What the scheduler first believes step times to be, as a multiple of the true ones."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.times is not None and self.measured is not None:
            raise ValueError("`measured` and `times` both give step times; keep one")
        if self.batching == "chunked" and self.max_batch_tokens < self.max_num_seqs:
            raise ValueError(
                f"a chunked step takes a token of each answer: maxBatchTokens "
                f"({self.max_batch_tokens}) must be at least maxNumSeqs ({self.max_num_seqs})"
            )
        if self.kv_tokens is not None and self.kv_tokens < self.block_tokens:
            raise ValueError("kvTokens is less than one block; raise it or lower blockTokens")
        if self.prefix_caching and CACHE_BLOCK_TOKENS % self.block_tokens:
            raise ValueError(
                f"prefixes are cached in stretches of {CACHE_BLOCK_TOKENS} tokens: blockTokens "
                f"({self.block_tokens}) must divide that; or set prefixCaching to false"
            )
        return self

    @property
    def told(self) -> bool:
        """Whether nothing is left to the cost model."""
        return (self.times or self.measured) is not None and self.kv_tokens is not None
