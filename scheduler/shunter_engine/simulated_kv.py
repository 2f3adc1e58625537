"""What stands in for a simulated engine's keys and values where they are copied.

A token's key is its id and its value its position, so that what was lost, doubled or misplaced on
the way gives other tokens afterwards, as it would on a GPU. The time that a copy takes is that of
the real model's bytes.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shunter_engine.moves.layout import Part


class SimulatedKv:
    """Ids and positions by block; only what came from elsewhere is ever written."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._slots = np.zeros((2, blocks, block_tokens), np.uint32)

    def read(self, token_ids: Sequence[int], part: Part) -> bytes:
        end = part.first_token + part.tokens
        both = [token_ids[part.first_token : end], range(part.first_token, end)]
        return np.array(both, "<u4").tobytes()

    def write(self, block_table: Sequence[int], part: Part, data: bytes) -> None:
        positions = np.arange(part.first_token, part.first_token + part.tokens)
        blocks = np.asarray(block_table)[positions // self._block_tokens]
        both = np.frombuffer(data, "<u4").reshape(2, part.tokens)
        self._slots[:, blocks, positions % self._block_tokens] = both

    def ids(self, block_table: Sequence[int], first: int, end: int) -> list[int]:
        """Of the tokens whose keys and values lie at these positions; a wrong place shows."""
        positions = np.arange(first, end)
        blocks = np.asarray(block_table, np.int64)[positions // self._block_tokens]
        ids, places = self._slots[:, blocks, positions % self._block_tokens]
        found: npt.NDArray[np.uint32] = ids + (places - positions.astype(np.uint32))
        return [int(i) for i in found]


class Link:
    """Carries one copy after the other. `s_per_byte` 0: without waiting."""

    def __init__(self, s_per_byte: float) -> None:
        self._s_per_byte = s_per_byte
        self._free_at_s = 0.0

    async def carry(self, size: int) -> None:
        """Returns when `size` bytes have gone out. A wait that is cancelled has used the link."""
        if not self._s_per_byte:
            return
        now_s = asyncio.get_running_loop().time()
        self._free_at_s = max(self._free_at_s, now_s) + size * self._s_per_byte
        await asyncio.sleep(self._free_at_s - now_s)
