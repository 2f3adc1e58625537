"""Many concurrent answers through the unmodified `openai` client."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from openai import AsyncOpenAI


@dataclass
class Answer:
    """What one client received."""

    prompt: str
    pieces: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    completion_tokens: int = 0
    request_id: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def client(url: str, api_key: str = "none") -> AsyncOpenAI:
    """The client as a user makes it; retries off, so that no failure hides behind one."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=120)


def prompts(count: int) -> list[str]:
    return [f"Story number {index}: a wagon, a siding and a long train." for index in range(count)]


async def stream(openai: AsyncOpenAI, answer: Answer, model: str, max_tokens: int) -> Answer:
    """Fill `answer` from a greedy streamed chat of exactly `max_tokens` tokens."""
    chunks = await openai.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": answer.prompt}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True, "min_tokens": max_tokens},
    )
    answer.request_id = chunks.response.headers["x-shunter-request-id"]
    async for chunk in chunks:
        if chunk.usage is not None:
            answer.completion_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if choice.delta.content:
                answer.pieces.append(choice.delta.content)
            if choice.finish_reason is not None:
                answer.finish_reason = choice.finish_reason
    return answer


async def undisturbed(url: str, texts: Sequence[str], model: str, max_tokens: int) -> list[Answer]:
    """The answers when nothing goes wrong."""
    async with client(url) as openai:
        return await asyncio.gather(
            *(stream(openai, Answer(text), model, max_tokens) for text in texts)
        )


async def all_in_mid_answer(answers: Sequence[Answer], pieces: int, timeout_s: float = 60) -> None:
    """Wait until each stream has delivered `pieces` pieces; none may have ended before."""
    async with asyncio.timeout(timeout_s):
        while any(len(answer.pieces) < pieces for answer in answers):
            await asyncio.sleep(0.01)
    ended = [answer.prompt for answer in answers if answer.finish_reason is not None]
    assert not ended, f"ended before the fault: {ended}"
