"""Blocks out of tensors and into them, by vLLM's block ids. Over torch where there is one."""

import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from numpy_torch import numpy_torch
from shunter_vllm.layout import UnknownLayout

BLOCKS, HEADS, TOKENS, WIDTH = 4, 2, 8, 3  # of vLLM's scheduler
torch_too = pytest.param(
    "torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
)


@pytest.fixture(params=["numpy", torch_too])
def torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    made = numpy_torch() if request.param == "numpy" else importlib.import_module("torch")
    monkeypatch.setitem(sys.modules, "torch", made)
    sys.modules.pop("shunter_vllm.tensors", None)
    yield made
    sys.modules.pop("shunter_vllm.tensors", None)


def layer(torch: ModuleType, first: int, ratio: int = 1, token_major: bool = False) -> Any:
    """A layer's numbers, `[blocks * ratio, heads, tokens / ratio, width]` as vLLM shapes them."""
    tokens = TOKENS // ratio
    size = BLOCKS * HEADS * TOKENS * WIDTH
    raw = torch.frombuffer(
        bytearray(np.arange(first, first + size, dtype=np.int32).tobytes()), dtype=torch.int32
    )
    if not token_major:
        return raw.view(BLOCKS * ratio, HEADS, tokens, WIDTH)
    swapped = raw.view(BLOCKS * ratio, tokens, HEADS, WIDTH)
    if hasattr(swapped, "array"):
        return type(swapped)(swapped.array.swapaxes(1, 2))
    return swapped.transpose(1, 2)


def cache(layers: list[Any], count: int | None = None, num_blocks: int = BLOCKS) -> Any:
    tensors = importlib.import_module("shunter_vllm.tensors")
    named = {f"model.layers.{i}": made for i, made in enumerate(layers)}
    return tensors.TensorCache(named, len(layers) if count is None else count, num_blocks)


def numbers(parts: list[memoryview]) -> list[list[int]]:
    return [np.frombuffer(part, np.int32).tolist() for part in parts]


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_a_block_is_read_where_vllm_means_it(torch: ModuleType, ratio: int) -> None:
    """Whatever blocks the attention kernel splits it into, it lies in one place."""
    per_block = HEADS * TOKENS * WIDTH
    made = cache([layer(torch, first, ratio) for first in (0, 1000)])
    assert made.block_bytes == 2 * per_block * 4
    for block, parts in zip((3, 1), made.read([3, 1]), strict=True):
        begins = block * per_block
        assert numbers(parts) == [
            list(range(first + begins, first + begins + per_block)) for first in (0, 1000)
        ]


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("token_major", [False, True])
def test_what_is_written_elsewhere_is_what_was_read(
    torch: ModuleType, ratio: int, token_major: bool
) -> None:
    """Into tensors of another order in memory, too: bytes travel in the order of the shape."""
    source = cache([layer(torch, first, ratio) for first in (0, 1000)])
    there = cache([layer(torch, first, ratio, token_major) for first in (5000, 6000)])
    untouched = [numbers(parts) for parts in there.read([1, 3])]
    payloads = [memoryview(b"".join(parts)) for parts in source.read([2, 0])]
    there.write([0, 2], payloads)
    assert [numbers(parts) for parts in there.read([0, 2])] == [
        numbers(parts) for parts in source.read([2, 0])
    ]
    assert [numbers(parts) for parts in there.read([1, 3])] == untouched


@pytest.mark.parametrize("num_blocks", [0, 3, 5, 8])
def test_rows_that_do_not_make_blocks_are_refused(torch: ModuleType, num_blocks: int) -> None:
    with pytest.raises(UnknownLayout, match=f"4 rows for {num_blocks} blocks"):
        cache([layer(torch, 0)], num_blocks=num_blocks)


def test_layers_of_several_forms_or_too_few_are_refused(torch: ModuleType) -> None:
    one = layer(torch, 0)
    with pytest.raises(UnknownLayout, match="2 forms"):
        cache([one, layer(torch, 0, ratio=2)])
    with pytest.raises(UnknownLayout, match="1 tensors"):
        cache([one, one])
    with pytest.raises(UnknownLayout, match="no tensor"):
        cache([[one]])
