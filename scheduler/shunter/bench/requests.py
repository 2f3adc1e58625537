"""A workload's rows as HTTP requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from shunter.bench.records import PlannedRequest
from shunter_simulator.workloads import Arrival, PromptTokens

# Short common words: one token each, with the space before it, in most vocabularies.
_TEXT = (
    "the of and to in is it you that he was for on are with as his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said "
    "an each she which do their time if will way about many then them would write like so these"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class RequestStyle:
    """`models`: name and weight. `chat` sends words of about the right length as a message instead
    of token ids. `exact_length` asks for answers of exactly the row's length (vLLM's `min_tokens`
    and `ignore_eos`)."""

    models: Sequence[tuple[str, float]]
    prompts: PromptTokens
    chat: bool = False
    exact_length: bool = True
    temperature: float = 0.0
    seed: int = 0


def planned_requests(arrivals: Sequence[Arrival], style: RequestStyle) -> Iterator[PlannedRequest]:
    """Lazily, so that bodies of long prompts are not all held at once."""
    names = [name for name, _ in style.models]
    weights = np.array([weight for _, weight in style.models])
    rng = np.random.default_rng(style.seed)
    choices = rng.choice(len(names), size=len(arrivals), p=weights / weights.sum())
    for index, (arrival, choice) in enumerate(zip(arrivals, choices, strict=True)):
        model = names[int(choice)]
        yield PlannedRequest(
            index,
            arrival.at_s,
            model,
            "/v1/chat/completions" if style.chat else "/v1/completions",
            _body(arrival, index, model, style),
            None if style.chat else arrival.prompt_tokens,
            arrival.output_tokens if style.exact_length else None,
        )


def _body(arrival: Arrival, index: int, model: str, style: RequestStyle) -> bytes:
    token_ids = style.prompts.of(arrival, index)
    body: dict[str, object] = {
        "model": model,
        "max_tokens": arrival.output_tokens,
        "temperature": style.temperature,
        "seed": index,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if style.chat:
        text = " ".join(_WORDS[token % len(_WORDS)] for token in token_ids)
        body["messages"] = [{"role": "user", "content": text}]
    else:
        body["prompt"] = token_ids
    if style.exact_length:
        body["min_tokens"] = arrival.output_tokens
        body["ignore_eos"] = True
    return msgspec.json.encode(body)
