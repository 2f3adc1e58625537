"""Attention over paged keys and values.

A block of the cache is a tile: scores, weights and weighted values are computed block by block
with products of one shape, and the blocks' parts are added in the order of the sequence. Keys
behind a query count exactly 0 and adding 0 changes no bit, so that the result of a query does not
depend on the queries beside it nor on how far the block table reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shunter_engine.numpy_products import F32, agreeing_sizes

ANY_ROWS = tuple(range(1, 97))  # where results may depend on the size of a tile
Ids = npt.NDArray[np.int64]


class PagedKv:
    """Keys [layer, block, head, channel, token] and values [layer, block, head, token, channel].

    Zeroed: what was never written must be finite, for it is multiplied by 0. Memory is taken from
    the system when a block is first written.
    """

    def __init__(self, layers: int, blocks: int, heads: int, channels: int, tokens: int) -> None:
        self.block_tokens = tokens
        self.keys = np.zeros((layers, blocks, heads, channels, tokens), np.float32)
        self.values = np.zeros((layers, blocks, heads, tokens, channels), np.float32)

    def write(self, layer: int, places: "Places", keys: F32, values: F32) -> None:
        """`keys` and `values` are [n, head, channel]."""
        self.keys[layer][places.blocks, :, :, places.offsets] = keys
        self.values[layer][places.blocks, :, places.offsets] = values

    def read(self, blocks: Ids, tokens: int, layers: slice) -> F32:
        """The first `tokens` in `blocks`: [2, layer, token, head, channel], keys first."""
        keys = self.keys[layers, blocks].transpose(0, 1, 4, 2, 3)
        values = self.values[layers, blocks].transpose(0, 1, 3, 2, 4)
        count, _, _, heads, channels = keys.shape
        shape = (count, len(blocks) * self.block_tokens, heads, channels)
        return np.stack([keys.reshape(shape), values.reshape(shape)])[:, :, :tokens]

    def load(self, blocks: Ids, layers: slice, both: F32) -> None:
        """Puts what `read` gave into `blocks`; what is left of the last one becomes 0."""
        _, count, tokens, heads, channels = both.shape
        full = np.zeros((2, count, len(blocks) * self.block_tokens, heads, channels), np.float32)
        full[:, :, :tokens] = both
        keys, values = full.reshape(2, count, len(blocks), self.block_tokens, heads, channels)
        self.keys[layers, blocks] = keys.transpose(0, 1, 3, 4, 2)
        self.values[layers, blocks] = values.transpose(0, 1, 3, 2, 4)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a step are kept: one entry per token."""

    blocks: Ids
    offsets: Ids


@dataclass(frozen=True, slots=True)
class QueryTile:
    """Queries that follow each other in one sequence. A row is one head's query."""

    first: int  # query of the step
    count: int
    rows: int  # of one KV head: heads per group * count, and padding
    blocks: Ids  # that hold the keys up to the last query
    bias: F32  # [blocks, 1, rows, token]: -inf for keys behind the query
    bias_from: int  # the first block that has any


def query_tiles(
    spans: Sequence[tuple[int, int, Ids]], block_tokens: int, group: int, sizes: tuple[int, ...]
) -> list[QueryTile]:
    """Tiles of a step's chunks, given as (first position, count, block table), with row counts
    among `sizes` (ascending)."""
    tiles = []
    first = 0
    for start, count, table in spans:
        for done in range(0, count, sizes[-1] // group):
            here = min(sizes[-1] // group, count - done)
            rows = next(size for size in sizes if size >= group * here)
            end = -(-(start + done + here) // block_tokens)
            bias, bias_from = _bias(start + done, here, rows, group, block_tokens)
            tiles.append(QueryTile(first, here, rows, table[:end], bias, bias_from))
            first += here
    return tiles


def _bias(start: int, count: int, rows: int, group: int, block_tokens: int) -> tuple[F32, int]:
    bias_from = (start + 1) // block_tokens  # all keys of the blocks before it may be seen
    end = -(-(start + count) // block_tokens)
    keys = np.arange(bias_from * block_tokens, end * block_tokens).reshape(-1, 1, 1, block_tokens)
    queries = np.tile(np.arange(start, start + count), group)[:, None]
    bias = np.zeros((end - bias_from, 1, rows, block_tokens), np.float32)
    bias[:, :, : group * count][keys > queries] = -np.inf
    return bias, bias_from


def attend(queries: F32, keys: F32, values: F32, tiles: Sequence[QueryTile]) -> F32:
    """[n, head, channel] queries (scaled) against one layer's `keys` and `values`."""
    out = np.empty_like(queries)
    kv_heads, channels = keys.shape[1], keys.shape[2]
    group = queries.shape[1] // kv_heads
    for tile in tiles:
        stop, used = tile.first + tile.count, group * tile.count
        own = queries[tile.first : stop].reshape(tile.count, kv_heads, group, channels)
        q = np.zeros((kv_heads, tile.rows, channels), np.float32)
        q[:, :used] = own.transpose(1, 2, 0, 3).reshape(kv_heads, used, channels)
        o = _attend_tile(q, keys[tile.blocks], values[tile.blocks], tile)[:, :used]
        o = o.reshape(kv_heads, group, tile.count, channels).transpose(2, 0, 1, 3)
        out[tile.first : stop] = o.reshape(tile.count, -1, channels)
    return out


def _attend_tile(q: F32, keys: F32, values: F32, tile: QueryTile) -> F32:
    scores = np.matmul(q, keys)  # [block, head, row, token]
    scores[tile.bias_from :] += tile.bias
    scores -= scores.max(axis=-1).max(axis=0)[..., None]
    np.exp(scores, out=scores)
    # The blocks first, one after the other; then within a block's width, which is always the same.
    total: F32 = scores.sum(axis=0).sum(axis=-1)
    out: F32 = np.matmul(scores, values).sum(axis=0)
    out /= total[..., None]
    return out


def agreeing_rows(channels: int, block_tokens: int, group: int) -> tuple[int, ...]:
    """Row counts of tiles whose products agree bit by bit; see `agreeing_sizes`.

    Raises `ValueError` where no tile holds the heads of a group.
    """
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((channels, block_tokens), np.float32)
    values = rng.standard_normal((block_tokens, channels), np.float32)

    def both(x: F32) -> F32:
        scores, weights = x[:, :channels].copy(), x[:, channels:].copy()
        return np.concatenate([scores @ keys, weights @ values], axis=1)

    sizes = agreeing_sizes(both, channels + block_tokens)
    if not sizes or sizes[-1] < group:
        raise ValueError(
            f"this machine's BLAS gives no equal results for tiles of {group} rows and more "
            f"(agreeing: {sizes}): start the engine without deterministic mode"
        )
    return sizes
