"""Names of the stretches of prompts that engines and the prefix index share."""

import numpy as np

from shunter_simulator.scenarios.engines import CACHE_BLOCK_TOKENS
from shunter_simulator.workloads import Arrival
from shunter_simulator.workloads.prompts import TRACE_BLOCK_TOKENS

_PARTS = TRACE_BLOCK_TOKENS // CACHE_BLOCK_TOKENS
_OWN = 1 << 40  # names of what only one request has begin here
_OWN_EACH = 1 << 20


def shared_blocks(arrival: Arrival) -> tuple[int, ...]:
    """Those that the workload names, cut into full stretches of `CACHE_BLOCK_TOKENS` tokens."""
    if not arrival.prefix_blocks:
        return ()
    names = [block * _PARTS + part for block in arrival.prefix_blocks for part in range(_PARTS)]
    return tuple(names[: arrival.prompt_tokens // CACHE_BLOCK_TOKENS])


def all_blocks(shared: tuple[int, ...], row: int, tokens: int) -> tuple[int, ...]:
    """Of everything that a request has so far: by these it is found again where it was warmed."""
    own = _OWN + row * _OWN_EACH
    return shared + tuple(own + n for n in range(len(shared), tokens // CACHE_BLOCK_TOKENS))


def hashes(blocks: tuple[int, ...]) -> bytes:
    """As `Request.block_hashes` packs them."""
    names = np.array(blocks, dtype=np.uint64)
    mixed = (names + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(31))).astype("<u8").tobytes()
