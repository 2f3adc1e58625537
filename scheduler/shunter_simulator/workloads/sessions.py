"""Conversations that grow turn by turn, each prompt repeating all before it: the shape of the
Mooncake conversation trace (Qin et al., FAST 2025) for where the trace itself is not at hand."""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.lengths import parse_length
from shunter_simulator.workloads.prompts import TRACE_BLOCK_TOKENS

# Set so that the prompt's mean, the answer's mean and the best possible share of prefix hits come
# near the trace's 12,035 tokens, 343 tokens and 37.4 % of the prompt tokens.
_FIRST = parse_length("lognormal/9800/1.2")
_ADDED = parse_length("lognormal/3200/1.0")
_OUTPUT = parse_length("lognormal/343/1.0")
_GO_ON = 0.39
_THINK_S = 60.0
_MAX_PROMPT = 126_000


@dataclass(slots=True)
class _Session:
    blocks: tuple[int, ...]
    prompt_tokens: int


def conversations(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> list[Arrival]:
    """Requests at about `rate_per_s` once the first sessions have reached their later turns."""
    names = count()
    begin_per_s = rate_per_s * (1 - _GO_ON)
    due: list[tuple[float, int, _Session | None]] = []  # the number parts equal instants
    numbers = count()
    heappush(due, (float(rng.exponential(1 / begin_per_s)), next(numbers), None))
    arrivals: list[Arrival] = []
    while due and due[0][0] < duration_s:
        at_s, _, session = heappop(due)
        if session is None:
            later_s = at_s + float(rng.exponential(1 / begin_per_s))
            heappush(due, (later_s, next(numbers), None))
            session = _Session((), int(_FIRST.draw(rng, 1)[0]))
        session.prompt_tokens = min(session.prompt_tokens, _MAX_PROMPT)
        whole = -(-session.prompt_tokens // TRACE_BLOCK_TOKENS)
        fresh = tuple(next(names) for _ in range(whole - len(session.blocks)))
        blocks = session.blocks + fresh
        output_tokens = int(_OUTPUT.draw(rng, 1)[0])
        arrivals.append(Arrival(at_s, session.prompt_tokens, output_tokens, blocks))
        if rng.random() < _GO_ON and session.prompt_tokens < _MAX_PROMPT:
            kept = blocks[: session.prompt_tokens // TRACE_BLOCK_TOKENS]  # whole blocks only
            grown = session.prompt_tokens + output_tokens + int(_ADDED.draw(rng, 1)[0])
            think_s = float(rng.exponential(_THINK_S))
            heappush(due, (at_s + think_s, next(numbers), _Session(kept, grown)))
    return arrivals
