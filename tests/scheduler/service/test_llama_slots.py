"""Which llama-servers may restore each other's slots, and how the scheduler learns it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from fake_llama_server import FakeLlama, serving
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved
from shunter_scheduler.service.engines import EnginePoller
from shunter_scheduler.service.replies import KvMoves
from shunter_scheduler.telemetry import Telemetry


async def told(llama: FakeLlama, arguments: Sequence[str] = ()) -> KvMoves:
    """What a scheduler that polls this server tells gateways."""
    heard: asyncio.Queue[KvMoves] = asyncio.Queue()
    observed: list[InstanceObserved] = []
    async with serving(llama):
        instance = Instance("a", "chat", "cpu", llama.address, "llamacpp")
        poller = EnginePoller(
            lambda: [instance],
            observed.append,
            Telemetry(CollectorRegistry()),
            on_kv_moves=lambda _, how: heard.put_nowait(how),
            arguments=lambda _: arguments,
            interval_s=0.02,
        )
        task = asyncio.create_task(poller.run())
        async with asyncio.timeout(10):
            first, second = await heard.get(), await heard.get()
        task.cancel()
    assert first == second and observed[0].kv_transport == first.transport
    return replace(first, address="") if not first.transport else first


async def word(llama: FakeLlama, *arguments: str) -> str:
    return (await told(llama, arguments)).transport


async def test_servers_of_one_model_and_build_have_one_word(tmp_path: Path) -> None:
    llama = FakeLlama(tmp_path)
    found = await told(llama)
    assert found.transport.startswith("llama-slots-") and found.address == llama.address
    assert await word(FakeLlama(tmp_path / "elsewhere")) == found.transport
    assert await word(FakeLlama(tmp_path), "--parallel", "8") == found.transport


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cache-type-k", "q8_0"),
        ("-ctv", "q8_0"),
        ("--flash-attn=off",),
        ("--swa-full",),
        ("--rope-freq-base", "10000"),
        ("--yarn-ext-factor", "-1.0"),
        ("--override-kv", "tokenizer.ggml.add_bos_token=bool:false"),
        ("--lora", "a.gguf"),
        ("--control-vector-layer-range", "3", "9"),
    ],
)
async def test_arguments_that_shape_the_cache_change_it(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert await word(FakeLlama(tmp_path), *arguments) != await word(FakeLlama(tmp_path))


async def test_another_model_or_build_has_another(tmp_path: Path) -> None:
    words = {
        await word(FakeLlama(tmp_path)),
        await word(FakeLlama(tmp_path, build="b2-abc")),
        await word(FakeLlama(tmp_path, meta={"n_vocab": 269, "size": 2, "ftype": "F32"})),
    }
    assert len(words) == 3


@pytest.mark.parametrize("meta", [{"n_vocab": "many"}, None])
async def test_a_server_that_speaks_otherwise_has_none_and_serves(
    tmp_path: Path, meta: Any
) -> None:
    assert await told(FakeLlama(tmp_path, meta=meta)) == KvMoves("", "")


async def test_a_server_that_saves_no_slots_has_none() -> None:
    assert await told(FakeLlama(None)) == KvMoves("", "")
