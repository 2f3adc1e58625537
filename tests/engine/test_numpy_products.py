import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_engine import numpy_products
from shunter_engine.numpy_products import (
    TILE_ROWS,
    Products,
    agreeing_sizes,
    set_blas_threads,
    split_rows,
    tiled_product,
)


def random(rows: int, columns: int) -> numpy_products.F32:
    return np.random.default_rng(rows).standard_normal((rows, columns), np.float32)


@given(st.integers(1, 2000), st.sets(st.sampled_from(TILE_ROWS), min_size=1))
def test_tiles_hold_all_rows_and_waste_less_than_one_tile(rows: int, chosen: set[int]) -> None:
    sizes = tuple(sorted(chosen))
    tiles = split_rows(rows, sizes)
    assert set(tiles) <= chosen
    assert rows <= sum(tiles) < rows + sizes[-1]
    assert sum(tiles[:-1]) < rows


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.sampled_from([(64, 96), (500, 200), (900, 1000)]))
def test_a_row_does_not_depend_on_the_rows_beside_it(rows: int, shape: tuple[int, int]) -> None:
    x, matrix = random(rows, shape[0]), random(*shape)
    products = Products(deterministic=True)
    together = products(x, matrix)
    np.testing.assert_allclose(together, x @ matrix, rtol=1e-3, atol=1e-3)
    for index in {0, rows // 2, rows - 1}:
        assert np.array_equal(products(x[index : index + 1], matrix)[0], together[index])


def test_sizes_that_disagree_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS whose products of fewer than 8 rows end in other bits."""
    honest = numpy_products.product

    def moody(x: numpy_products.F32, matrix: numpy_products.F32) -> numpy_products.F32:
        out = honest(x, matrix)
        return np.nextafter(out, np.float32(np.inf)) if len(x) < 8 else out

    monkeypatch.setattr(numpy_products, "product", moody)
    assert min(agreeing_sizes(random(64, 96))) == 8


def test_one_row_at_a_time_where_nothing_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def chaotic(x: numpy_products.F32, matrix: numpy_products.F32) -> numpy_products.F32:
        nonlocal calls
        calls += 1
        return x @ matrix + np.float32(calls)

    monkeypatch.setattr(numpy_products, "product", chaotic)
    assert agreeing_sizes(random(64, 96)) == (1,)
    monkeypatch.undo()
    assert tiled_product(random(5, 64), random(64, 96), (1,)).shape == (5, 96)


def test_the_threads_of_the_blas_can_be_limited() -> None:
    assert set_blas_threads(1)
