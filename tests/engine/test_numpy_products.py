import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_engine import numpy_products
from shunter_engine.numpy_products import (
    F32,
    TILE_ROWS,
    BlockedMatrix,
    Products,
    agreeing_sizes,
    blocked,
    set_blas_threads,
    split_rows,
)


def random(rows: int, columns: int) -> F32:
    return np.random.default_rng(rows).standard_normal((rows, columns), np.float32)


@given(st.integers(1, 2000), st.sets(st.sampled_from(TILE_ROWS), min_size=1))
def test_tiles_hold_all_rows_and_waste_less_than_one_tile(rows: int, chosen: set[int]) -> None:
    sizes = tuple(sorted(chosen))
    tiles = split_rows(rows, sizes)
    assert set(tiles) <= chosen
    assert rows <= sum(tiles) < rows + sizes[-1]
    assert sum(tiles[:-1]) < rows


def matrix_of(values: F32) -> BlockedMatrix:
    return BlockedMatrix(blocked(values), *values.shape)


@pytest.mark.parametrize("shape", [(64, 96), (384, 128), (385, 129), (1000, 3)])
def test_a_blocked_product_is_a_product(shape: tuple[int, int]) -> None:
    x, values = random(5, shape[0]), random(*shape)
    for deterministic in (True, False):
        got = Products(deterministic)(x, matrix_of(values))
        np.testing.assert_allclose(got, x @ values, rtol=1e-3, atol=1e-3)
    indices = np.array([2, 0, 2])
    assert np.array_equal(matrix_of(values).columns(indices), values[:, indices].T)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.sampled_from([(64, 96), (500, 200), (900, 1000)]))
def test_a_row_does_not_depend_on_the_rows_beside_it(rows: int, shape: tuple[int, int]) -> None:
    x, matrix = random(rows, shape[0]), matrix_of(random(*shape))
    products = Products(deterministic=True)
    together = products(x, matrix)
    for index in {0, rows // 2, rows - 1}:
        assert np.array_equal(products(x[index : index + 1], matrix)[0], together[index])


def avx2(x: F32, matrix: F32) -> F32:
    """A BLAS with kernels for 4, 2 and 1 rows, and one for 12 with a left and a right half."""
    out = x @ matrix
    kernels = []
    rows = len(x)
    for kernel, bits in ((12, (1,) * 6 + (2,) * 6), (4, (3,) * 4), (2, (4,) * 2), (1, (5,))):
        kernels += list(bits) * (rows // kernel)
        rows %= kernel
    return out + np.array(kernels, np.float32)[:, None]


def test_sizes_that_disagree_are_left_out() -> None:
    matrix = random(64, 96)
    assert agreeing_sizes(lambda x: avx2(x, matrix), 64) == (4, 8)


def test_one_row_at_a_time_where_nothing_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = numpy_products.product

    def chaotic(x: F32, blocks: F32) -> F32:
        return honest(x, blocks) + np.arange(len(x), dtype=np.float32)[:, None]

    monkeypatch.setattr(numpy_products, "product", chaotic)
    products, matrix = Products(deterministic=True), matrix_of(random(64, 96))
    assert products.probe(matrix) == (1,)
    x = random(5, 64)
    assert np.array_equal(products(x, matrix)[3], products(x[3:4], matrix)[0])


def test_the_threads_of_the_blas_can_be_limited() -> None:
    assert set_blas_threads(1)
