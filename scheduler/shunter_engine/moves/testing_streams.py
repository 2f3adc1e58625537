"""Helpers for tests of moves: generate calls under way."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

WAIT_S = 120.0  # as long as it must be on a machine with other work


@dataclass
class Stream:
    """A generate call under way."""

    call_id: str
    body: dict[str, Any]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    broken: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def prompt(self) -> list[int]:
        prompt: list[int] = self.body["prompt"]
        return prompt

    async def reach(self, tokens: int) -> None:
        """Waits for so many tokens, or for the end."""
        async with asyncio.timeout(WAIT_S):
            while len(self.token_ids) < tokens and self.task is not None and not self.task.done():
                self.news.clear()
                await self.news.wait()

    async def end(self) -> None:
        assert self.task is not None
        await asyncio.wait_for(asyncio.shield(self.task), WAIT_S)

    async def leave(self) -> None:
        """Closes the connection."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])


def start_stream(
    client: aiohttp.ClientSession, url: str, call_id: str, prompt: list[int], **body: Any
) -> Stream:
    stream = Stream(call_id, {"prompt": prompt, "request_id": call_id, **body})
    stream.task = asyncio.create_task(_read(client, url, stream))
    return stream


async def _read(client: aiohttp.ClientSession, url: str, stream: Stream) -> None:
    fixed = {
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with client.post(f"{url}/v1/completions", json={**fixed, **stream.body}) as response:
            response.raise_for_status()
            async for line in response.content:
                _take(stream, line.strip().removeprefix(b"data: "))
                stream.news.set()
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
        stream.broken = True
    finally:
        stream.news.set()


def _take(stream: Stream, data: bytes) -> None:
    if not data or data == b"[DONE]":
        return
    event = msgspec.json.decode(data)
    for choice in event["choices"]:
        stream.token_ids += choice["token_ids"]
        if choice.get("logprobs"):
            stream.logprobs += choice["logprobs"]["top_logprobs"]
        stream.finish_reason = choice["finish_reason"] or stream.finish_reason
    stream.usage = event.get("usage") or stream.usage
