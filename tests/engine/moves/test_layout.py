"""How KV memory is cut into chunks, and which order of them is taken."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_engine.moves.layout import (
    CHUNK_BYTES,
    Cursor,
    KvLayout,
    Part,
    part_bytes,
    parts,
    tokens_digest,
)

LAYOUT = KvLayout("w", "t", "float32", block_tokens=16, layers=4, kv_heads=2, head_dim=8)
LAYOUTS = st.builds(
    KvLayout,
    st.just("w"),
    st.just("t"),
    st.sampled_from(["float32", "float16", "uint32"]),
    st.sampled_from([1, 4, 16, 32]),
    st.integers(1, 80),
    st.integers(1, 16),
    st.integers(1, 128),
    st.just(1),
    st.sampled_from([0, 131_072, 20_000_000]),
)


@given(layout=LAYOUTS, first_block=st.integers(0, 5), tokens=st.integers(0, 200))
def test_parts_cover_every_token_and_layer_once_in_order(
    layout: KvLayout, first_block: int, tokens: int
) -> None:
    first = first_block * layout.block_tokens
    cut = list(parts(layout, first, first + tokens))
    cells = [
        (token, layer)
        for p in cut
        for token in range(p.first_token, p.first_token + p.tokens)
        for layer in range(p.first_layer, p.first_layer + p.layers)
    ]
    assert len(cells) == len(set(cells)) == tokens * layout.layers
    assert all(first <= token < first + tokens for token, _ in cells)
    cursor = Cursor(layout, first)
    assert all(cursor.take(p) for p in cut)
    assert (cursor.token, cursor.layer) == (first + tokens, 0)
    one_block_in_a_layer = layout.block_tokens * layout.layer_bytes_per_token
    limit = max(CHUNK_BYTES, one_block_in_a_layer)
    assert all(part_bytes(layout, p) <= limit for p in cut)


@pytest.mark.parametrize(
    "part",
    [
        Part(16, 16, 0, 4),  # one is missing
        Part(0, 16, 1, 3),  # a layer is missing
        Part(0, 16, 0, 5),  # more layers than there are
        Part(0, 0, 0, 4),
        Part(0, 16, 0, 0),
    ],
)
def test_what_is_not_the_next_part_is_refused(part: Part) -> None:
    assert not Cursor(LAYOUT, 0).take(part)


def test_layers_of_one_stretch_belong_together() -> None:
    cursor = Cursor(LAYOUT, 0)
    assert cursor.take(Part(0, 16, 0, 2))
    assert not cursor.take(Part(0, 16, 0, 2))
    assert not cursor.take(Part(0, 32, 2, 2))
    assert cursor.take(Part(0, 16, 2, 2))
    assert cursor.take(Part(16, 5, 0, 4))
    assert not cursor.take(Part(21, 5, 0, 4))  # not a block's first token


def test_words_are_equal_where_manifests_are() -> None:
    others = [
        replace(LAYOUT, revision="v"),
        replace(LAYOUT, tokenizer_digest="v"),
        replace(LAYOUT, dtype="float16"),
        replace(LAYOUT, block_tokens=32),
        replace(LAYOUT, layers=5),
        replace(LAYOUT, kv_heads=4),
        replace(LAYOUT, head_dim=16),
        replace(LAYOUT, tensor_parallel=2),
    ]
    assert len({LAYOUT.word(), *(o.word() for o in others)}) == 9
    assert all(o.manifest() != LAYOUT.manifest() for o in others)
    assert replace(LAYOUT, model_bytes_per_token=7).word() == LAYOUT.word()


def test_a_digest_of_ids() -> None:
    """SHA-256 of 01000000 00010000, worked out by `sha256sum`."""
    expected = "242045e2f1bb37769b514f182fd91b3d"
    assert tokens_digest([1, 256]) == tokens_digest((1, 256)) != tokens_digest([256, 1])
    assert tokens_digest([1, 256]).hex()[:32] == expected
