"""What moves need of vLLM: its requests, and the block tables of a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Request(Protocol):
    """A request in vLLM's scheduler. Its fields change in the engine's thread."""

    @property
    def request_id(self) -> str: ...
    @property
    def all_token_ids(self) -> Sequence[int]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_output_tokens(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def cache_salt(self) -> str | None: ...


BlockTable = Callable[[str], Sequence[int] | None]
"""A request's blocks in this step, by its id; None where it is not in the step."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One block between the KV cache and the folder."""

    key: bytes
    block_id: int


def plain(request: Any) -> bool:
    """Whether its KV cache follows from its token ids alone."""
    return not (
        getattr(request, "lora_request", None)
        or getattr(request, "mm_features", None)
        or getattr(request, "prompt_embeds", None) is not None
        or getattr(request, "pooling_params", None)
    )


def computed_tokens(request: Request) -> int:
    """Whose keys and values are in the KV cache, by known ids: vLLM counts those of a step that it
    has scheduled ahead of its results as computed."""
    ahead = int(getattr(request, "num_output_placeholders", 0))
    return max(0, min(request.num_computed_tokens - ahead, request.num_tokens))
