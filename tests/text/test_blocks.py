import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from shunter_text.blocks import block_hashes, chain_root

TOKEN_IDS = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def unpack(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 8}Q", packed)


@given(TOKEN_IDS, st.integers(0, 2**64 - 1), st.integers(1, 9))
def test_equals_a_naive_chain(token_ids: list[int], root: int, block_tokens: int) -> None:
    expected, seed = [], root
    for start in range(0, len(token_ids) - block_tokens + 1, block_tokens):
        block = token_ids[start : start + block_tokens]
        seed = xxh3_64_intdigest(struct.pack(f"<{block_tokens}I", *block), seed)
        expected.append(seed)
    assert unpack(block_hashes(token_ids, root, block_tokens)) == tuple(expected)


@given(st.binary(max_size=40), st.integers(1, 9))
def test_each_byte_of_a_text_is_an_id(text: bytes, block_tokens: int) -> None:
    assert block_hashes(text, 7, block_tokens) == block_hashes(list(text), 7, block_tokens)


@given(TOKEN_IDS, TOKEN_IDS)
def test_shared_prefix_gives_shared_hashes_and_nothing_more(a: list[int], b: list[int]) -> None:
    blocks = 4
    hashes_a, hashes_b = unpack(block_hashes(a, 7, blocks)), unpack(block_hashes(b, 7, blocks))
    for index, (left, right) in enumerate(zip(hashes_a, hashes_b, strict=False)):
        end = (index + 1) * blocks
        assert (left == right) == (a[:end] == b[:end])


def test_known_value_stays() -> None:
    """Gateways of two versions must agree: the hash is part of the wire protocol."""
    root = chain_root("r1", "sql", "salt")
    assert root == 3474924609809971368
    assert unpack(block_hashes(range(128), root)) == (
        6546345966482921036,
        3619083735410642314,
    )


def test_roots_keep_revisions_adapters_and_tenants_apart() -> None:
    roots = [
        chain_root("r1"),
        chain_root("r2"),
        chain_root("r1", "a"),
        chain_root("r1", "", "a"),
        chain_root("r1a"),
    ]
    assert len(set(roots)) == len(roots)


def test_ids_and_block_size_are_checked() -> None:
    with pytest.raises(OverflowError):
        block_hashes([2**32], 0)
    with pytest.raises(ValueError, match="block_tokens"):
        block_hashes([1], 0, 0)
