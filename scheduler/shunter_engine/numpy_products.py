"""Float32 matrix products whose rows do not depend on the rows beside them.

A BLAS chooses its kernel by shape, and kernels add the terms of a dot product in different orders.
So `n` rows are computed in tiles of few fixed sizes, and the inner dimension in blocks: up to some
length (OpenBLAS: the panel depth, 384 and more for float32) a kernel adds the terms one after the
other whatever else it does. Which sizes agree bit by bit on this machine is not assumed but tried
at start, with the model's own matrices: `agreeing_sizes`.
"""

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

DEPTH = 384  # longest inner dimension of one BLAS call
TILE_ROWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_REFERENCE_ROWS = 64
# Few rows: keep each call under the limit of OpenBLAS' kernels for small matrices (1e6
# multiplications), which read the matrix in place; the others copy it first.
_FEW_ROWS, _FEW_ROWS_COLUMNS = 3, 768
_PROBE_OFFSETS = (0, 1, 5)


def product(x: F32, matrix: F32) -> F32:
    """`x @ matrix` as one tile: [n, k] by [k, m]."""
    rows, depth = x.shape
    columns = matrix.shape[1]
    width = _FEW_ROWS_COLUMNS if rows <= _FEW_ROWS else columns
    out = np.empty((rows, columns), np.float32)
    part = np.empty((rows, min(width, columns)), np.float32) if depth > DEPTH else out
    for left in range(0, columns, width):
        target = out[:, left : left + width]
        np.matmul(x[:, :DEPTH], matrix[:DEPTH, left : left + width], out=target)
        for top in range(DEPTH, depth, DEPTH):
            term = part[:, : target.shape[1]]
            block = matrix[top : top + DEPTH, left : left + width]
            np.matmul(x[:, top : top + DEPTH], block, out=term)
            target += term
    return out


def tiled_product(x: F32, matrix: F32, sizes: tuple[int, ...]) -> F32:
    """`x @ matrix` in tiles whose row counts are among `sizes` (ascending); missing rows are 0."""
    rows = x.shape[0]
    tiles = split_rows(rows, sizes)
    if tiles == [rows]:
        return product(x, matrix)
    padded = np.zeros((sum(tiles), x.shape[1]), np.float32)
    padded[:rows] = x
    out = np.empty((len(padded), matrix.shape[1]), np.float32)
    start = 0
    for size in tiles:
        out[start : start + size] = product(padded[start : start + size], matrix)
        start += size
    return out[:rows]


def split_rows(rows: int, sizes: tuple[int, ...]) -> list[int]:
    """Row counts of the tiles for `rows` rows: the largest while they are full, then one that
    holds the rest."""
    full, rest = divmod(rows, sizes[-1])
    tiles = [sizes[-1]] * full
    if rest:
        tiles.append(next(size for size in sizes if size >= rest))
    return tiles


def agreeing_sizes(matrix: F32) -> tuple[int, ...]:
    """Tile sizes that give the same bits for a row wherever it stands in a tile.

    Never empty: one row at a time agrees with itself by definition, where nothing else does.
    """
    rng = np.random.default_rng(0)
    rows = max(TILE_ROWS) + max(_PROBE_OFFSETS)
    x = rng.standard_normal((rows, matrix.shape[0]), np.float32)
    expected = tiled_product(x, matrix, (_REFERENCE_ROWS,))
    sizes = tuple(
        size
        for size in TILE_ROWS
        if all(
            np.array_equal(product(x[at : at + size], matrix), expected[at : at + size])
            for at in _PROBE_OFFSETS
        )
    )
    return sizes if _REFERENCE_ROWS in sizes else (1,)


class Products:
    """`x @ matrix` for a model's matrices, deterministic or as fast as one BLAS call."""

    def __init__(self, deterministic: bool) -> None:
        self.deterministic = deterministic
        self._sizes: dict[tuple[int, ...], tuple[int, ...]] = {}

    def probe(self, matrix: F32) -> tuple[int, ...]:
        """Finds the tile sizes for matrices of this shape; once for each shape."""
        if matrix.shape not in self._sizes:
            self._sizes[matrix.shape] = agreeing_sizes(matrix)
        return self._sizes[matrix.shape]

    def __call__(self, x: F32, matrix: F32) -> F32:
        if self.deterministic:
            return tiled_product(x, matrix, self.probe(matrix))
        if x.shape[0] == 1:
            row: F32 = np.matmul(x, matrix)
            return row
        return product(x, matrix)


def set_blas_threads(count: int) -> bool:
    """Limits OpenBLAS, where NumPy uses it, to `count` threads in this process. False: not found.

    Same as OPENBLAS_NUM_THREADS, but also after NumPy was imported.
    """
    for path in _loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if setter is not None:
                    setter(ctypes.c_int(count))
                    return True
    return False


def _loaded_libraries(name: str) -> list[str]:
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/")}
    return sorted(path for path in paths if name in Path(path).name)
