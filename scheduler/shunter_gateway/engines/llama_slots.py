"""llama-server's slots, saved to and restored from a folder that the gateway shares with them.

A save or restore waits in the server while its slot is processing, and is forgotten where its
connection closes first. No slot can be reserved: where another request has got it the move is given
up at once. What was saved begins with the exact ids of the slot's tokens
(llama.cpp, `llama_state_seq_save_file`). Files of moves whose gateway has died are removed by age.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llamacpp import call_seed
from shunter_gateway.engines.plain_call import whole_answer
from shunter_gateway.engines.slot_bars import SlotBars
from shunter_gateway.moves.ports import OnSlotReply, RunningCall, SlotReply, StoppedSlot
from shunter_gateway.moves.slots import FILE_PREFIX, FILE_SUFFIX
from shunter_gateway.moves.stop_copy import NO_SLOT
from shunter_gateway.ports import EngineUnavailable

CALL_S = 5.0  # for a server to answer; the client waits for save and restore
STALE_S = 120.0  # older than any move gets
SWEEP_S = 30.0
_SETTLE_S = 1.0  # until a restored slot's call shows in /slots
_LATE_LOOKS = 6  # for a file of a save that was given up, each after twice the time
_MAX_LATE = 256  # files looked for at a time; the sweep finds the others
_LOOK_S = 0.05  # until a look at a slot whose save or restore is not answered

_MAGIC = 0x67677371  # LLAMA_STATE_SEQ_MAGIC
_HEADER = struct.Struct("<III")  # magic, version, number of ids
_PACKED = -1  # then a version, the number of ids, the ids, and what is not text

_log = structlog.get_logger(__name__)


class UnreadableSlot(Exception):
    """Not a file of a saved slot as this module knows it."""


class _Params(msgspec.Struct):
    seed: int = -1


class _Slot(msgspec.Struct):
    id: int
    n_ctx: int = 0
    is_processing: bool = False
    n_prompt_tokens: int = 0  # that it holds, of an idle one too
    id_task: int = -1  # the last one; -1: none yet
    params: _Params = msgspec.field(default_factory=_Params)


class _Written(msgspec.Struct):
    n_written: int


_SLOTS = msgspec.json.Decoder(list[_Slot])
_WRITTEN = msgspec.json.Decoder(_Written)


def slot_token_ids(path: Path) -> list[int]:
    """Of the tokens that a saved slot holds. Blocks. Raises `UnreadableSlot`, `OSError`."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        magic, _, count = _HEADER.unpack(head) if len(head) == _HEADER.size else (0, 0, 0)
        body = file.read(4 * count) if magic == _MAGIC else b""
    if magic != _MAGIC or len(body) != 4 * count:
        raise UnreadableSlot(path.name)
    ids = list(struct.unpack(f"<{count}i", body))
    if not ids or ids[0] != _PACKED:
        return ids
    if len(ids) < 3 or len(ids) < 3 + ids[2]:
        raise UnreadableSlot(path.name)
    return ids[3 : 3 + ids[2]]


class LlamaSlots:
    """`SlotServers`. Owns the calls under way; `run` removes what other gateways left; `close`
    ends the calls."""

    def __init__(self, client: HttpClient, folder: Path, call_s: float = CALL_S) -> None:
        self._client = client
        self._folder = folder
        self._call_s = call_s
        self._time = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken_until: dict[tuple[str, int], float] = {}
        bars = SlotBars(self._time)
        self.barred, self.bar = bars.barred, bars.bar
        self._late: set[str] = set()  # files that may still come

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await asyncio.to_thread(sweep, self._folder, time.time() - STALE_S)
            except OSError as error:
                _log.warning("slot_folder_unreadable", folder=str(self._folder), error=str(error))
            await asyncio.sleep(SWEEP_S)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ SlotServers

    def find(self, address: str, call: RunningCall, on_reply: OnSlotReply) -> None:
        self._start(self._find(address, call_seed(call.call_id, call.seed)), on_reply)

    def choose(self, address: str, tokens: int, on_reply: OnSlotReply) -> None:
        self._start(self._choose(address, tokens), on_reply)

    def let_go(self, address: str, slot: int) -> None:
        self._taken_until[address, slot] = self._time() + _SETTLE_S

    def save(self, stopped: StoppedSlot, name: str, on_reply: OnSlotReply) -> None:
        self._start(self._save(stopped, name), on_reply)

    def restore(self, address: str, slot: int, name: str, on_reply: OnSlotReply) -> None:
        self._start(self._restore(address, slot, name), on_reply)

    def remove(self, name: str) -> None:
        self._own(asyncio.to_thread(_unlink, self._folder / name))

    def _remove_late(self, name: str) -> None:
        """A server that is saving when nobody waits any more writes the file all the same."""
        if len(self._late) < _MAX_LATE and name not in self._late:
            self._late.add(name)
            self._own(self._look_for(name))

    async def _look_for(self, name: str) -> None:
        try:
            for look in range(_LATE_LOOKS):
                await asyncio.sleep(0.2 * self._call_s * 2**look)
                await asyncio.to_thread(_unlink, self._folder / name)
        finally:
            self._late.discard(name)

    # ------------------------------------------------------------ details

    def _start(
        self, work: Coroutine[Any, Any, SlotReply], on_reply: Callable[[SlotReply | None], None]
    ) -> None:
        async def answered() -> None:
            reply: SlotReply | None = None
            try:
                reply = await work
            except EngineUnavailable as error:
                _log.info("slot_call_unanswered", error=str(error))
            except Exception:  # a task's outermost level: whoever asked has to hear something
                _log.exception("slot_call_failed")
            on_reply(reply)

        self._own(answered())

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="llama-slots")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, address: str, seed: int) -> SlotReply:
        slots = await self._slots(address)
        found = [slot.id for slot in slots if slot.is_processing and slot.params.seed == seed]
        return SlotReply(found[0]) if len(found) == 1 else SlotReply(refusal="call_not_found")

    async def _choose(self, address: str, tokens: int) -> SlotReply:
        slots, now = await self._slots(address), self._time()
        self._taken_until = {at: until for at, until in self._taken_until.items() if until > now}
        idle = [
            slot
            for slot in slots
            if not slot.is_processing
            and slot.n_ctx >= tokens
            and (address, slot.id) not in self._taken_until
        ]
        if not idle:
            return SlotReply(refusal=NO_SLOT)
        chosen = _choice(idle)
        self._taken_until[address, chosen.id] = now + 4 * self._call_s
        return SlotReply(chosen.id)

    async def _slots(self, address: str) -> list[_Slot]:
        status, body = await whole_answer(self._client, address, "/slots", None, self._call_s)
        try:
            return _SLOTS.decode(body) if status == 200 else []
        except msgspec.MsgspecError as error:
            raise EngineUnavailable(f"{address}/slots: unreadable answer") from error

    async def _save(self, stopped: StoppedSlot, name: str) -> SlotReply:
        at = (stopped.address, stopped.slot)
        seed = call_seed(stopped.call.call_id, stopped.call.seed)
        try:
            status, body = await self._act(at, "save", name, stopping_seed=seed)
        except EngineUnavailable:
            self._remove_late(name)
            raise
        if status != 200:
            self._remove_late(name)
            return _refused(status)
        path = self._folder / name
        try:
            written = _WRITTEN.decode(body).n_written
            if (await asyncio.to_thread(path.stat)).st_size != written:
                return SlotReply(refusal="other_folder", bars="long")
            token_ids = await asyncio.to_thread(slot_token_ids, path)
        except OSError:
            return SlotReply(refusal="other_folder", bars="long")
        except (UnreadableSlot, msgspec.MsgspecError):
            return SlotReply(refusal="unreadable_file", bars="long")
        return SlotReply(token_ids=token_ids, bytes=written)

    async def _restore(self, address: str, slot: int, name: str) -> SlotReply:
        status, _ = await self._act((address, slot), "restore", name)
        return SlotReply() if status == 200 else _refused(status)

    async def _act(
        self, at: tuple[str, int], action: str, name: str, stopping_seed: int | None = None
    ) -> tuple[int, bytes]:
        """Status and body; status 0 where another request than the one with this seed has got the
        slot. Asked again where the slot is idle and nothing happens: of two saves that wait, the
        server may take up the wrong one when a slot gets idle, and forget the other."""
        address, slot = at
        body = msgspec.json.encode({"filename": name})
        path = f"/slots/{slot}?action={action}"

        def ask() -> asyncio.Task[tuple[int, bytes]]:
            asking = whole_answer(self._client, address, path, body, self._call_s)
            return asyncio.get_running_loop().create_task(asking)

        work = ask()
        try:
            async with asyncio.timeout(self._call_s):
                while not await _ends(work, _LOOK_S):
                    slots = await self._slots(address)
                    busy = [one for one in slots if one.id == slot and one.is_processing]
                    if any(one.params.seed != stopping_seed for one in busy):
                        return 0, b""
                    if slots and not busy and not await _ends(work, _LOOK_S):
                        work.cancel()
                        work = ask()
        except TimeoutError:
            raise EngineUnavailable(f"{address}{path}: no answer in time") from None
        finally:
            work.cancel()
        return work.result()


async def _ends(work: "asyncio.Task[tuple[int, bytes]]", timeout_s: float) -> bool:
    return bool((await asyncio.wait((work,), timeout=timeout_s))[0])


def _choice(idle: Sequence[_Slot]) -> _Slot:
    """llama-server gives new requests the slot that was used least recently, empty ones before
    others. So that none takes it: the last of the empty ones, or the one that is next but one."""
    in_turn = sorted(idle, key=lambda slot: (slot.id_task, slot.id))
    empty = [slot for slot in in_turn if not slot.n_prompt_tokens]
    return empty[-1] if empty else in_turn[min(1, len(in_turn) - 1)]


def _refused(status: int) -> SlotReply:
    """Most refusals pass: a restore gets 400 where the cache has no room just now as well as where
    the file cannot be read. Not that a server saves no slots (501)."""
    if not status:
        return SlotReply(refusal="slot_taken")
    return SlotReply(refusal=f"status {status}", bars="long" if status == 501 else "briefly")


def sweep(folder: Path, before: float) -> None:
    """Removes files of moves that were last written before this time (epoch seconds). Blocks.
    Raises `OSError` where the folder cannot be read."""
    for path in folder.glob(f"{FILE_PREFIX}*{FILE_SUFFIX}"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
                _log.info("slot_file_removed", name=path.name)
        except FileNotFoundError:
            continue


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("slot_file_left", name=path.name, error=str(error))
