"""Keys, files and the account of blocks that are on their way."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_vllm.folder import BlockDamaged, BlockFolder
from shunter_vllm.keys import KeyChain, root_key
from shunter_vllm.ledger import BlockLedger
from shunter_vllm.testing import FACTS

IDS = st.lists(st.integers(0, 5), max_size=24)
KEY = b"\x01" * 32


def keys(ids: list[int], layout: str = "layout", salt: str = "", block: int = 4) -> list[bytes]:
    chain = KeyChain(root_key(layout, salt), ids, block)
    return [chain.key(i) for i in range(chain.full_blocks)]


@given(IDS, IDS)
def test_keys_are_equal_exactly_as_far_as_the_tokens_are(left: list[int], right: list[int]) -> None:
    common = 0
    while common < min(len(left), len(right)) and left[common] == right[common]:
        common += 1
    for block, (a, b) in enumerate(zip(keys(left), keys(right), strict=False)):
        assert (a == b) == (common >= 4 * (block + 1))


def test_other_layouts_and_salts_have_other_keys() -> None:
    ids = list(range(8))
    alike = [keys(ids), keys(ids, layout="other"), keys(ids, salt="tenant"), keys(ids, block=8)]
    assert len({key for some in alike for key in some}) == 7


def test_a_chain_follows_a_sequence_that_grows() -> None:
    ids = [1, 2, 3]
    chain = KeyChain(root_key("layout", ""), ids, 4)
    with pytest.raises(IndexError):
        chain.key(0)
    ids.append(4)
    assert chain.key(0) == keys([1, 2, 3, 4])[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"revision": "other"},
        {"tokenizer_digest": "other"},
        {"vllm_version": "0.1"},
        {"cache_form": "cuda FLASH_ATTN"},
        {"dtype": "bfloat16"},
        {"block_tokens": 8},
        {"layers": 4},
        {"kv_heads": 1},
        {"head_dim": 16},
        {"tensor_parallel": 2},
    ],
)
def test_whatever_changes_a_block_changes_the_layout(changed: dict[str, object]) -> None:
    other = replace(FACTS, **changed)  # type: ignore[arg-type]
    assert other.word() != FACTS.word() and other.manifest() != FACTS.manifest()
    assert len(other.word()) < 256 and " " not in other.word()


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "kv" / "8200")
    folder.make()
    folder.write(KEY, 1, [b"keys", b"values"])
    assert not folder.has(KEY, 0) and folder.has(KEY, 1)
    assert bytes(folder.read(KEY, 1)) == b"keysvalues"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (file,) = folder.path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder.remove(KEY, ranks=2)
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "longer"])
def test_a_damaged_block_is_not_read(tmp_path: Path, damage: str) -> None:
    folder = BlockFolder(tmp_path)
    folder.write(KEY, 0, [b"keys and values"])
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    changes: dict[str, bytes | bytearray] = {
        "bit": data,
        "cut": data[:-3],
        "empty": b"",
        "longer": data + b"x",
    }
    file.write_bytes(changes[damage])
    with pytest.raises(BlockDamaged):
        folder.read(KEY, 0)


def test_a_missing_block_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BlockFolder(tmp_path).read(KEY, 0)


def test_what_is_not_written_whole_is_not_there(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        folder.write(KEY, 0, [b"keys"])
    assert not folder.has(KEY, 0)


def test_a_folder_is_emptied_when_an_engine_starts(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    folder.write(KEY, 0, [b"of an engine that was killed"])
    folder.make()
    assert not folder.has(KEY, 0)


def test_a_file_is_not_taken_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "kv").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        BlockFolder(tmp_path / "kv").make()


@pytest.mark.parametrize(("mode", "made"), [(0o755, True), (0o777, False), (0o1777, True)])
def test_nobody_can_put_another_folder_in_its_place(tmp_path: Path, mode: int, made: bool) -> None:
    above = tmp_path / "kv"
    above.mkdir()
    above.chmod(mode)
    if made:
        BlockFolder(above / "8200").make()
        return
    with pytest.raises(PermissionError, match="kv can be changed by others"):
        BlockFolder(above / "8200").make()


def test_a_folder_in_one_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.stat(tmp_path).st_uid
    if not owner:  # whatever is root's is safe from all others
        os.chown(tmp_path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(PermissionError, match="can be changed by others"):
        BlockFolder(tmp_path / "8200").make()


def test_two_moves_may_bring_one_block_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writer begins and ends while the first one is at it."""
    folder = BlockFolder(tmp_path)
    real, began = os.fdopen, []

    def opened(*given: Any) -> Any:
        file = real(*given)
        began.append(file)
        if len(began) == 1:
            folder.write(KEY, 0, [b"keys"])
        return file

    monkeypatch.setattr(os, "fdopen", opened)
    folder.write(KEY, 0, [b"keys"])
    assert len(began) == 2
    assert bytes(folder.read(KEY, 0)) == b"keys" and len(list(tmp_path.iterdir())) == 1


def test_files_that_nobody_knows_are_swept(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    folder.write(KEY, 0, [b"kept"])
    folder.write(b"\x02" * 32, 0, [b"orphan"])
    folder.sweep({KEY}.__contains__, before_s=0.0)
    assert len(list(tmp_path.iterdir())) == 2  # too young
    folder.sweep({KEY}.__contains__, before_s=1e12)
    assert folder.has(KEY, 0) and len(list(tmp_path.iterdir())) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5)), max_size=60))
def test_a_block_is_kept_while_somebody_holds_it(steps: list[tuple[bool, int, int]]) -> None:
    ledger, limit = BlockLedger(3), 3
    held: dict[int, set[int]] = {}
    for takes, holder, key in steps:
        name, raw = f"m{holder}", bytes([key])
        if takes:
            taken = ledger.hold(raw, name)
            assert taken == (bool(held.get(key)) or len([k for k in held if held[k]]) < limit)
            if taken:
                held.setdefault(key, set()).add(holder)
        else:
            held.get(key, set()).discard(holder)
            was = ledger.has(raw)
            assert ledger.release(name, [raw]) == ([raw] if was and not held.get(key) else [])
        assert ledger.free_blocks == limit - len([k for k in held if held[k]])
        assert all(ledger.has(bytes([k])) == bool(held[k]) for k in held)


def test_only_what_has_arrived_is_ready() -> None:
    ledger = BlockLedger(1)
    assert not ledger.set_ready(KEY)
    ledger.hold(KEY, "m")
    assert not ledger.is_ready(KEY)
    assert ledger.set_ready(KEY) and ledger.is_ready(KEY)
    ledger.release("m", [KEY])
    assert not ledger.is_ready(KEY)
