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

from shunter_engine.numpy_products import F32, split_rows

QUERY_TILES = (1, 2, 4, 8, 16, 32)
_REFERENCE_TILE = 32
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


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a step are kept: one entry per token."""

    blocks: Ids
    offsets: Ids


@dataclass(frozen=True, slots=True)
class QueryTile:
    """Queries that follow each other in one sequence."""

    row: int  # of the first, in the step's rows
    count: int
    rows: int  # `count` and padding
    blocks: Ids  # that hold the keys up to the last query
    bias: F32  # [blocks, 1, heads per group * rows, token]: -inf for keys behind the query
    bias_from: int  # the first block that has any


def query_tiles(
    spans: Sequence[tuple[int, int, Ids]], block_tokens: int, group: int, sizes: tuple[int, ...]
) -> list[QueryTile]:
    """Tiles of a step's chunks, given as (first position, count, block table)."""
    tiles = []
    row = 0
    for start, count, table in spans:
        done = 0
        for rows in split_rows(count, sizes):
            here = min(rows, count - done)
            tiles.append(_tile(row, start + done, here, rows, table, block_tokens, group))
            row += here
            done += here
    return tiles


def _tile(
    row: int, start: int, count: int, rows: int, table: Ids, block_tokens: int, group: int
) -> QueryTile:
    end = -(-(start + count) // block_tokens)
    bias_from = (start + 1) // block_tokens  # all keys of the blocks before it may be seen
    keys = np.arange(bias_from * block_tokens, end * block_tokens).reshape(-1, 1, 1, block_tokens)
    queries = np.tile(np.arange(start, start + rows), group)[:, None]
    bias = np.where(keys > queries, np.float32(-np.inf), np.float32(0))
    return QueryTile(row, count, rows, table[:end], bias, bias_from)


def attend(queries: F32, keys: F32, values: F32, tiles: Sequence[QueryTile]) -> F32:
    """[n, head, channel] queries (scaled) against one layer's `keys` and `values`."""
    out = np.empty_like(queries)
    kv_heads, channels = keys.shape[1], keys.shape[2]
    group = queries.shape[1] // kv_heads
    for tile in tiles:
        stop = tile.row + tile.count
        q = np.zeros((kv_heads, group, tile.rows, channels), np.float32)
        own = queries[tile.row : stop].reshape(tile.count, kv_heads, group, channels)
        q[:, :, : tile.count] = own.transpose(1, 2, 0, 3)
        q = q.reshape(kv_heads, group * tile.rows, channels)
        o = _attend_tile(q, keys[tile.blocks], values[tile.blocks], tile)
        o = o.reshape(kv_heads, group, tile.rows, channels)[:, :, : tile.count]
        out[tile.row : stop] = o.transpose(2, 0, 1, 3).reshape(tile.count, -1, channels)
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


def agreeing_query_tiles(channels: int, block_tokens: int, group: int) -> tuple[int, ...]:
    """Tile sizes whose products agree bit by bit on this machine; see `numpy_products`."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((channels, block_tokens), np.float32)
    values = rng.standard_normal((block_tokens, channels), np.float32)
    q = rng.standard_normal((group * _REFERENCE_TILE, channels), np.float32)
    p = rng.standard_normal((group * _REFERENCE_TILE, block_tokens), np.float32)
    expected_scores, expected_out = q @ keys, p @ values
    sizes = tuple(
        size
        for size in QUERY_TILES
        if all(
            np.array_equal(q[at : at + rows] @ keys, expected_scores[at : at + rows])
            and np.array_equal(p[at : at + rows] @ values, expected_out[at : at + rows])
            for rows in [group * size]
            for at in range(0, len(q) - rows + 1)
        )
    )
    return sizes if _REFERENCE_TILE in sizes else (1,)
