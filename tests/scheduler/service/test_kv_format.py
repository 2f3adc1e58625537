"""Batches of KV events as vLLM sends them, of several versions, and such as nobody should send."""

from array import array
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.domain.events import KvBlocksRemoved, KvBlocksStored, KvCleared
from shunter_scheduler.service.kv_format import KvEvent, KvFormat

TOKENS = list(range(32))


def decoded(*events: Any, rank: int | None = None) -> list[KvEvent]:
    return KvFormat("e").events(msgspec.msgpack.encode([1.5, list(events), rank]))


def test_arrays_and_maps_say_the_same() -> None:
    arrays = decoded(
        ["BlockStored", [11, 12], 10, TOKENS, 16, None, "GPU"],
        ["BlockRemoved", [11], "GPU"],
        ["AllBlocksCleared"],
    )
    maps = decoded(
        {
            "type": "BlockStored",
            "block_hashes": [11, 12],
            "parent_block_hash": 10,
            "token_ids": TOKENS,
            "block_size": 16,
            "of_a_later_version": {"x": 1},
        },
        {"type": "BlockRemoved", "block_hashes": [11]},
        {"type": "AllBlocksCleared"},
        rank=3,
    )
    assert arrays == maps
    stored = KvBlocksStored("e", (11, 12), 10, array("I", TOKENS), 16)
    assert arrays == [stored, KvBlocksRemoved("e", (11,)), KvCleared("e")]


def test_the_oldest_version_has_fewer_fields() -> None:
    (event,) = decoded(["BlockStored", [-1], None, TOKENS, 32, None])
    assert isinstance(event, KvBlocksStored)
    assert (event.hashes, event.parent) == ((2**64 - 1,), None)


def test_of_hashes_in_bytes_the_last_eight_count() -> None:
    digest = bytes(range(32))
    (event,) = decoded(["BlockStored", [digest], digest, TOKENS, 32, None, "GPU"])
    assert isinstance(event, KvBlocksStored)
    assert event.hashes == (int.from_bytes(digest[24:], "big"),) == (event.parent,)


@pytest.mark.parametrize(
    "event",
    [
        ["BlockStored", [1], None, TOKENS, 32, 7, "GPU"],  # an adapter's
        ["BlockStored", [1], None, TOKENS, 32, None, "GPU", "adapter"],
        ["BlockStored", [1], None, TOKENS, 32, None, "GPU", None, [["salt"]]],
        ["BlockStored", [1], None, TOKENS, 32, None, "CPU"],
        ["BlockStored", [1], None, TOKENS, 32, None, "GPU", None, None, 1],  # another group
        ["BlockStored", [1], None, [[1, 2]] * 32, 32, None, "GPU"],
        ["BlockStored", [1], None, TOKENS, 33, None, "GPU"],
        ["BlockStored", [1], None, TOKENS, 0, None, "GPU"],
        ["BlockStored", [None], None, TOKENS, 32, None, "GPU"],
        ["BlockStored", [], None, TOKENS, 32, None, "GPU"],
        ["BlockStored"],
        ["BlockRemoved", [1], "CPU"],
        ["BlockRemoved", "11"],
        ["BlockRemoved", [1], "GPU", []],
        ["BlockStored", [1], None, TOKENS, 32, None, "GPU", None, None, {}, "full_attention"],
        ["SomethingNew", 1],
        {"token_ids": TOKENS},
        7,
        [],
    ],
)
def test_what_says_nothing_about_prompts_is_let_pass(event: Any) -> None:
    assert decoded(event, ["AllBlocksCleared"]) == [KvCleared("e")]


def test_the_groups_with_full_attention_are_learnt() -> None:
    one = KvFormat("e")

    def stored(group: int, kind: str | None) -> list[KvEvent]:
        event = ["BlockStored", [1], None, TOKENS, 32, None, "GPU", None, None, group, kind]
        return one.events(msgspec.msgpack.encode([0, [event]]))

    assert not stored(0, "sliding_window")
    assert stored(1, "full_attention")
    assert stored(1, None)
    assert not stored(0, None)


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x01", msgspec.msgpack.encode([1, {}])])
def test_what_is_no_batch_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="KV events of e: "):
        KvFormat("e").events(bad)


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_give_events_or_a_refusal(payload: bytes) -> None:
    try:
        events = KvFormat("e").events(payload)
    except ValueError:
        return
    assert isinstance(events, list)


json_like = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from(["BlockStored", "BlockRemoved"]), json_like), max_size=4))
def test_fields_of_any_kind_give_events_or_nothing(events: list[tuple[str, Any]]) -> None:
    raw = [[name, *(rest if isinstance(rest, list) else [rest])] for name, rest in events]
    assert len(decoded(*raw)) <= len(events)
