"""llama-server's slots over HTTP, and the files that they are saved to."""

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fake_llama_server import FakeLlama, FakeSlot, serving, slot_file
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llama_slots import (
    STALE_S,
    LlamaSlots,
    UnreadableSlot,
    slot_token_ids,
    sweep,
)
from shunter_gateway.engines.llamacpp import call_seed
from shunter_gateway.moves.ports import Bar, OnSlotReply, RunningCall, SlotReply, StoppedSlot

CALL = RunningCall("r1-1", None)
SEED = call_seed("r1-1", None)
FILE = "shunter-0123.slot"


async def reply_of(ask: Callable[[OnSlotReply], None]) -> SlotReply | None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[SlotReply | None] = loop.create_future()
    ask(future.set_result)
    async with asyncio.timeout(10):
        return await future


@pytest.fixture
async def llama(tmp_path: Path) -> AsyncIterator[FakeLlama]:
    async with serving(FakeLlama(tmp_path)) as started:
        yield started


@pytest.fixture
async def slots(client: HttpClient, tmp_path: Path) -> AsyncIterator[LlamaSlots]:
    made = LlamaSlots(client, tmp_path, call_s=0.5)
    yield made
    await made.close()


def stopped(llama: FakeLlama, slot: int = 1) -> StoppedSlot:
    return StoppedSlot(llama.address, slot, CALL)


def test_each_call_has_a_seed_of_its_own() -> None:
    assert call_seed("r1-1", None) != call_seed("r1-2", None)
    assert call_seed("r1-1", 2**40 + 5) == 5


async def test_a_call_is_found_by_its_seed(slots: LlamaSlots, llama: FakeLlama) -> None:
    llama.slots[1] = FakeSlot([1, 2], SEED, 7, busy=True)
    assert await reply_of(lambda on: slots.find(llama.address, CALL, on)) == SlotReply(slot=1)
    other = RunningCall("r2-1", None)
    missed = await reply_of(lambda on: slots.find(llama.address, other, on))
    assert missed == SlotReply(refusal="call_not_found")


async def test_of_two_calls_with_one_seed_none_is_taken(
    slots: LlamaSlots, llama: FakeLlama
) -> None:
    llama.slots[1] = FakeSlot([1], 5, 7, busy=True)
    llama.slots[2] = FakeSlot([1], 5, 8, busy=True)
    same = RunningCall("r1-1", 5)
    reply = await reply_of(lambda on: slots.find(llama.address, same, on))
    assert reply == SlotReply(refusal="call_not_found")


async def chosen(slots: LlamaSlots, llama: FakeLlama, tokens: int = 100) -> SlotReply | None:
    return await reply_of(lambda on: slots.choose(llama.address, tokens, on))


async def test_a_slot_is_chosen_that_no_new_request_gets_first(
    slots: LlamaSlots, llama: FakeLlama
) -> None:
    assert await chosen(slots, llama) == SlotReply(slot=2)  # llama-server begins at 0
    llama.slots = [FakeSlot([1] * 9, id_task=i) for i in (4, 3, 5)]
    assert await chosen(slots, llama) == SlotReply(slot=0)  # slot 1 comes before it


async def test_moves_at_once_get_different_slots(slots: LlamaSlots, llama: FakeLlama) -> None:
    found = [await chosen(slots, llama) for _ in range(4)]
    assert [reply.slot for reply in found if reply] == [2, 1, 0, -1]
    assert found[3] == SlotReply(refusal="no_slot")


async def test_a_slot_has_to_be_idle_and_long_enough(slots: LlamaSlots, llama: FakeLlama) -> None:
    llama.slots = [FakeSlot(busy=True), FakeSlot(n_ctx=50), FakeSlot(n_ctx=100)]
    assert await chosen(slots, llama) == SlotReply(slot=2)
    assert await chosen(slots, llama, 2000) == SlotReply(refusal="no_slot")


async def test_a_saved_slot_tells_its_ids(slots: LlamaSlots, llama: FakeLlama) -> None:
    llama.slots[1] = FakeSlot([5, 6, 7], SEED, 1)
    reply = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert reply == SlotReply(token_ids=[5, 6, 7], bytes=len(slot_file([5, 6, 7])))


async def test_a_save_waits_for_its_own_call_to_stop(slots: LlamaSlots, llama: FakeLlama) -> None:
    llama.slots[1] = busy = FakeSlot([5], SEED, 1, busy=True)
    asyncio.get_running_loop().call_later(0.25, lambda: setattr(busy, "busy", False))
    reply = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert reply is not None and reply.token_ids == [5]


async def test_a_save_that_the_server_forgets_is_asked_for_again(
    slots: LlamaSlots, llama: FakeLlama
) -> None:
    """llama-server does that where two saves wait for slots that get idle in the other order."""
    llama.slots[1] = FakeSlot([5, 6], SEED, 1)
    llama.forgets = 1
    reply = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert reply is not None and reply.token_ids == [5, 6]
    assert llama.done == ["save"]


async def test_a_slot_that_another_request_got_is_given_up(
    slots: LlamaSlots, llama: FakeLlama
) -> None:
    llama.slots[1] = busy = FakeSlot([5], 99, 2, busy=True)
    saved = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    restored = await reply_of(lambda on: slots.restore(llama.address, 1, FILE, on))
    assert saved == restored == SlotReply(refusal="slot_taken")
    await asyncio.sleep(0.05)
    busy.busy = False
    await asyncio.sleep(0.05)
    assert llama.done == []  # both were forgotten


async def test_a_server_that_says_nothing_has_not_answered(
    slots: LlamaSlots, llama: FakeLlama
) -> None:
    llama.slots[1] = FakeSlot([5], SEED, 2, busy=True)
    assert await reply_of(lambda on: slots.save(stopped(llama), FILE, on)) is None
    gone = StoppedSlot("127.0.0.1:1", 0, CALL)
    assert await reply_of(lambda on: slots.save(gone, FILE, on)) is None


@pytest.mark.parametrize(("status", "bars"), [(500, "briefly"), (503, "briefly"), (501, "long")])
async def test_most_of_what_a_server_refuses_it_may_do_soon(
    slots: LlamaSlots, llama: FakeLlama, status: int, bars: Bar
) -> None:
    llama.status = status
    saved = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert saved == SlotReply(refusal=f"status {status}", bars=bars)
    llama.status = 200
    missing = await reply_of(lambda on: slots.restore(llama.address, 0, "shunter-no.slot", on))
    assert missing == SlotReply(refusal="status 400", bars="briefly")


async def test_a_file_that_is_not_here_is_in_another_folder(
    client: HttpClient, llama: FakeLlama, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    slots = LlamaSlots(client, tmp_path / "other")
    reply = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert reply == SlotReply(refusal="other_folder", bars="long")
    (tmp_path / "other" / FILE).write_bytes(b"of somebody else")
    reply = await reply_of(lambda on: slots.save(stopped(llama), FILE, on))
    assert reply == SlotReply(refusal="other_folder", bars="long")


async def test_files_are_removed(slots: LlamaSlots, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"x")
    slots.remove(FILE)
    slots.remove("shunter-none.slot")
    async with asyncio.timeout(5):
        while (tmp_path / FILE).exists():
            await asyncio.sleep(0.005)


async def test_a_file_that_comes_after_its_save_was_given_up_is_removed(
    slots: LlamaSlots, llama: FakeLlama, tmp_path: Path
) -> None:
    llama.slots[1] = FakeSlot([5], SEED, 1)
    llama.late = asyncio.Event()
    assert await reply_of(lambda on: slots.save(stopped(llama), FILE, on)) is None
    slots.remove(FILE)
    assert not (tmp_path / FILE).exists()
    llama.late.set()
    async with asyncio.timeout(30):
        while "late" not in llama.done or (tmp_path / FILE).exists():
            await asyncio.sleep(0.005)


def test_old_files_of_moves_are_swept_and_nothing_else(tmp_path: Path) -> None:
    now = time.time()
    for name in (FILE, "shunter-new.slot", "mine.slot", "shunter-0.log"):
        (tmp_path / name).write_bytes(b"x")
        age_s = 0 if "new" in name else 2 * STALE_S
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    sweep(tmp_path, now - STALE_S)
    assert sorted(os.listdir(tmp_path)) == ["mine.slot", "shunter-0.log", "shunter-new.slot"]


async def test_the_sweep_begins_with_the_gateway(slots: LlamaSlots, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"x")
    os.utime(tmp_path / FILE, (0, 0))
    task = asyncio.create_task(slots.run())
    async with asyncio.timeout(5):
        while (tmp_path / FILE).exists():
            await asyncio.sleep(0.005)
    task.cancel()


def test_ids_of_a_file_without_packing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(struct.pack("<III3i", 0x67677371, 3, 3, 8, 9, 10) + b"cache")
    assert slot_token_ids(tmp_path / FILE) == [8, 9, 10]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF" + bytes(40),
        slot_file([1, 2, 3])[:20],
        struct.pack("<III3i", 0x67677371, 4, 3, -1, 1, 9),
        struct.pack("<III2i", 0x67677371, 4, 2, -1, 1),
    ],
    ids=["empty", "another file", "cut", "fewer ids than told", "no count"],
)
def test_other_files_are_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UnreadableSlot):
        slot_token_ids(tmp_path / FILE)
