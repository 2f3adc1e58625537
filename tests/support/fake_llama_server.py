"""As much of llama-server as moves by slots need, over real sockets."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web


def slot_file(token_ids: list[int]) -> bytes:
    """As llama-server 11434 saves a slot of text, its cache left out."""
    ids = [-1, 1, len(token_ids), *token_ids, 0]
    return struct.pack(f"<III{len(ids)}i", 0x67677371, 4, len(ids), *ids) + b"cache"


@dataclass
class FakeSlot:
    token_ids: list[int] = field(default_factory=list)
    seed: int = 4294967295
    id_task: int = -1
    busy: bool = False
    n_ctx: int = 2048

    def told(self, number: int) -> dict[str, Any]:
        said: dict[str, Any] = {"id": number, "n_ctx": self.n_ctx, "is_processing": self.busy}
        if self.id_task >= 0:
            said |= {"id_task": self.id_task, "n_prompt_tokens": len(self.token_ids)}
            said["params"] = {"seed": self.seed, "temperature": 0.0}
        return said


@dataclass
class FakeLlama:
    """`folder` None: started without --slot-save-path. A save or restore waits while its slot is
    busy, and is forgotten with its connection."""

    folder: Path | None
    slots: list[FakeSlot] = field(default_factory=lambda: [FakeSlot() for _ in range(3)])
    meta: dict[str, Any] = field(
        default_factory=lambda: {"n_vocab": 269, "size": 1, "ftype": "F32"}
    )
    build: str = "b1-abc"
    address: str = ""
    done: list[str] = field(default_factory=list)
    status: int = 200  # of saves and restores
    forgets: int = 0  # so many of them are never answered
    late: asyncio.Event | None = None  # saves are written once it is set, though nobody waits
    writing: set[asyncio.Task[None]] = field(default_factory=set)

    async def all_slots(self, _: web.Request) -> web.Response:
        return web.json_response([slot.told(i) for i, slot in enumerate(self.slots)])

    async def act(self, request: web.Request) -> web.Response:
        if self.folder is None:
            return web.json_response({"error": {"code": 501}}, status=501)
        name = (await request.json())["filename"]
        if not name or "/" in name:
            return web.json_response({"error": {"message": "Invalid filename"}}, status=400)
        slot = self.slots[int(request.match_info["slot"]) % len(self.slots)]
        while slot.busy:
            await asyncio.sleep(0.005)
        if self.forgets:
            self.forgets -= 1
            await asyncio.sleep(3600)
        action = request.query["action"]
        if self.late is not None and action == "save":
            self.writing.add(asyncio.create_task(self._write_late(slot, name, self.late)))
            await asyncio.sleep(3600)
        self.done.append(action)
        if self.status != 200:
            return web.json_response({"error": {}}, status=self.status)
        if action == "save":
            written = slot_file(slot.token_ids)
            (self.folder / name).write_bytes(written)
            said = {"n_saved": len(slot.token_ids), "n_written": len(written)}
            return web.json_response({"id_slot": 0, "filename": name, **said})
        if not (self.folder / name).exists():
            return web.json_response({"error": {"message": "Unable to restore"}}, status=400)
        return web.json_response({"n_restored": 1})

    async def _write_late(self, slot: FakeSlot, name: str, due: asyncio.Event) -> None:
        assert self.folder is not None
        await due.wait()
        (self.folder / name).write_bytes(slot_file(slot.token_ids))
        self.done.append("late")

    async def props(self, _: web.Request) -> web.Response:
        return web.json_response({"build_info": self.build, "endpoint_slots": True})

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "meta": self.meta}]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text="llamacpp:requests_processing 1\n")

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="{}")


@asynccontextmanager
async def serving(llama: FakeLlama) -> AsyncIterator[FakeLlama]:
    app = web.Application()
    app.router.add_get("/slots", llama.all_slots)
    app.router.add_post("/slots/{slot}", llama.act)
    app.router.add_get("/props", llama.props)
    app.router.add_get("/v1/models", llama.models)
    app.router.add_get("/metrics", llama.metrics)
    app.router.add_get("/health", llama.health)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    llama.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield llama
    finally:
        await runner.cleanup()
