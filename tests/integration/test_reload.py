"""The configuration is edited while the system runs."""

import asyncio
from collections.abc import Callable

import openai
import pytest

from shunter_system import EngineSpec, System, pool_document
from streams import Answer, client, stream


async def test_good_edit_taken_bad_edit_refused(start_system: Callable[..., System]) -> None:
    engines = (EngineSpec("a"),)
    system = start_system(*engines)
    async with client(system.url) as api:
        with pytest.raises(openai.NotFoundError):
            await stream(api, Answer("hi"), "second-name", 3)

        document = pool_document("chat", engines)
        spec = document["spec"]
        assert isinstance(spec, dict)
        spec["model"]["aliases"] = ["second-name"]
        system.documents = [document]
        system.write_config()
        async with asyncio.timeout(20):
            while "second-name" not in [model.id async for model in api.models.list()]:
                await asyncio.sleep(0.1)
        await stream(api, Answer("hi"), "second-name", 3)

        spec["model"]["contextLength"] = "much"
        system.write_config()
        async with asyncio.timeout(20):
            while not (refused := (await asyncio.to_thread(system.status)).config_error):
                await asyncio.sleep(0.1)
        assert "pools.yaml" in refused
        assert "contextLength" in refused
        await stream(api, Answer("hi"), "second-name", 3)
