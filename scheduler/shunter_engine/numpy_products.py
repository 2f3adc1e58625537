"""Float32 matrix products whose rows do not depend on the rows beside them.

A BLAS chooses its kernel by shape, and kernels add the terms of a dot product in different orders.
So a matrix is kept in blocks and multiplied block by block, with the rows in tiles of few fixed
sizes. Up to some inner length (OpenBLAS: the panel depth, 384 and more for float32) kernels add the
terms one after the other whatever else they do. Which sizes agree bit by bit on this machine is not
assumed but tried at start: `agreeing_sizes`.

Small blocks are also the fast ones for few rows: OpenBLAS multiplies matrices under 1e6 terms in
place, larger ones it copies first.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

MAX_DEPTH = 384
WIDTH = 128
TILE_ROWS = (2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
_PROBE_BLOCKS = 2
_PROBES = 3


@dataclass(frozen=True, slots=True)
class BlockedMatrix:
    """A matrix [inputs, outputs] in blocks, its last blocks filled with zeros."""

    blocks: F32  # [down, across, depth, WIDTH]
    inputs: int
    outputs: int

    def columns(self, indices: npt.NDArray[np.int64]) -> F32:
        """The transposed columns at `indices`: [n, inputs]."""
        picked = self.blocks[:, indices // WIDTH, :, indices % WIDTH]  # [n, down, depth]
        return picked.reshape(len(indices), -1)[:, : self.inputs]


def block_shape(inputs: int, outputs: int) -> tuple[int, int, int, int]:
    """Shape of `BlockedMatrix.blocks`: as few blocks down as possible, of equal depth."""
    down = -(-inputs // MAX_DEPTH)
    return down, -(-outputs // WIDTH), -(-inputs // down), WIDTH


def blocked(matrix: F32) -> F32:
    """The blocks of a matrix [inputs, outputs]."""
    down, across, depth, width = block_shape(*matrix.shape)
    padded = np.zeros((down * depth, across * width), np.float32)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    blocks = padded.reshape(down, depth, across, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks)


def product(x: F32, blocks: F32) -> F32:
    """[n, inputs] by blocks, as one tile: [n, outputs], the zeros at the ends included."""
    down, _, depth, _ = blocks.shape
    rows = len(x)
    if x.shape[1] < down * depth:
        x = np.concatenate([x, np.zeros((rows, down * depth - x.shape[1]), np.float32)], axis=1)
    parts = np.matmul(x.reshape(rows, down, 1, depth).transpose(1, 2, 0, 3).copy(), blocks)
    total: F32 = parts[0]
    for part in parts[1:]:
        total += part
    return total.transpose(1, 0, 2).reshape(rows, -1)


def tiled_product(x: F32, blocks: F32, sizes: tuple[int, ...]) -> F32:
    """`product` in tiles whose row counts are among `sizes` (ascending); missing rows are 0."""
    rows = len(x)
    tiles = split_rows(rows, sizes)
    if tiles == [rows]:
        return product(x, blocks)
    padded = np.zeros((sum(tiles), x.shape[1]), np.float32)
    padded[:rows] = x
    ends = np.cumsum(tiles)
    parts = [
        product(padded[end - size : end], blocks) for size, end in zip(tiles, ends, strict=True)
    ]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[:rows]


def split_rows(rows: int, sizes: tuple[int, ...]) -> list[int]:
    """Row counts of the tiles for `rows` rows: the largest while they are full, then one that
    holds the rest."""
    full, rest = divmod(rows, sizes[-1])
    tiles = [sizes[-1]] * full
    if rest:
        tiles.append(next(size for size in sizes if size >= rest))
    return tiles


def agreeing_sizes(multiply: Callable[[F32], F32], depth: int) -> tuple[int, ...]:
    """Tile sizes for which a row's product is the same, bit by bit, wherever the row stands in the
    tile and whichever of the sizes it is. Kernels do not look at values, so that a tile of equal
    rows shows it: its results must be equal. The largest such group of sizes; may be empty.

    Measured: with OpenBLAS' AVX-512 kernels all sizes agree, with its AVX2 kernels 4 and 8 rows.
    """
    probes = np.random.default_rng(0).standard_normal((_PROBES, depth), np.float32)
    groups: dict[bytes, list[int]] = {}
    for size in TILE_ROWS:
        results = [multiply(np.repeat(probe[None], size, axis=0)) for probe in probes]
        if all((result == result[0]).all() for result in results):
            key = b"".join(result[0].tobytes() for result in results)
            groups.setdefault(key, []).append(size)
    return max(map(tuple, groups.values()), key=lambda sizes: (len(sizes), sizes[-1]), default=())


class Products:
    """`x @ matrix` for a model's matrices, deterministic or in one tile, whatever its size."""

    def __init__(self, deterministic: bool) -> None:
        self.deterministic = deterministic
        self._sizes: dict[int, tuple[int, ...]] = {}  # by depth of the blocks

    def probe(self, matrix: BlockedMatrix) -> tuple[int, ...]:
        """Finds the tile sizes for matrices with blocks of this shape; once for each shape."""
        depth = matrix.blocks.shape[2]
        if depth not in self._sizes:
            few = matrix.blocks[:, :_PROBE_BLOCKS]
            # One row at a time agrees with itself by definition, where nothing else does.
            sizes = agreeing_sizes(lambda x: product(x, few), few.shape[0] * depth)
            self._sizes[depth] = sizes or (1,)
        return self._sizes[depth]

    def __call__(self, x: F32, matrix: BlockedMatrix) -> F32:
        if self.deterministic:
            return tiled_product(x, matrix.blocks, self.probe(matrix))[:, : matrix.outputs]
        return product(x, matrix.blocks)[:, : matrix.outputs]


def set_blas_threads(count: int) -> bool:
    """Limits OpenBLAS, where NumPy uses it, to `count` threads in this process. False: not found.

    Same as OPENBLAS_NUM_THREADS, but also after NumPy was imported.
    """
    return _call_openblas("set_num_threads", count) is not None


def blas_threads() -> int:
    """Threads that OpenBLAS uses in this process; 0: NumPy does not use it."""
    return _call_openblas("get_num_threads") or 0


def _call_openblas(function: str, *arguments: int) -> int | None:
    """None where the function is not found."""
    for path in _loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                called = getattr(library, f"{prefix}_{function}{suffix}", None)
                if called is not None:
                    result: int = called(*map(ctypes.c_int, arguments))
                    return result
    return None


def _loaded_libraries(name: str) -> list[str]:
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/")}
    return sorted(path for path in paths if name in Path(path).name)
