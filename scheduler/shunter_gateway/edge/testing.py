"""Fakes of the edge's two ports: a runner that answers by script, and a catalogue of models."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from shunter_gateway.edge.ports import ChatPrompt, NotSupported, PromptInvalid, ServedModel
from shunter_gateway.ports import FinishReason, TokenLogprob
from shunter_gateway.request import ClientError, ClientSink, Delta, Outcome, RequestSpec, Waiting


@dataclass(frozen=True, slots=True)
class Script:
    """What the fake engine says: `words`, one delta each, then `error` or a finish."""

    words: tuple[str, ...] = ("Hel", "lo", "!")
    finish: FinishReason = "stop"
    error: ClientError | None = None
    delay_s: float = 0.0  # before each word; 0: as fast as the loop turns
    hang: bool = False  # after the words, until cancelled
    raw: tuple[bytes, ...] = ()  # in place of words
    assigned: bool = True
    waiting: Waiting | None = None  # as long as nothing was said
    hold_s: float = 0.0  # before anything is said


@dataclass(slots=True)
class FakeHandle:
    spec: RequestSpec
    task: asyncio.Task[None] | None = None
    wait: Waiting | None = None
    cancelled: bool = False
    pauses: int = 0
    resumes: int = 0
    finished: bool = False
    running: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> None:
        if not self.finished:
            self.cancelled = True
            if self.task is not None:
                self.task.cancel()

    def waiting(self) -> Waiting | None:
        return self.wait

    def pause(self) -> None:
        self.pauses += 1
        self.running.clear()

    def resume(self) -> None:
        self.resumes += 1
        self.running.set()


class FakeRunner:
    """A `RequestRunner` that records what it was given."""

    def __init__(self, script: Callable[[RequestSpec], Script] = lambda _: Script()) -> None:
        self.script = script
        self.handles: list[FakeHandle] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def specs(self) -> list[RequestSpec]:
        return [handle.spec for handle in self.handles]

    def submit(self, spec: RequestSpec, sink: ClientSink) -> FakeHandle:
        handle = FakeHandle(spec)
        handle.running.set()
        self.handles.append(handle)
        script = self.script(spec)
        handle.wait = script.waiting
        if script.error is not None and not script.words and not script.hold_s:
            handle.finished = True
            sink.on_error(script.error)  # a refusal at once, before submit returns
            return handle
        handle.task = asyncio.create_task(_play(script, spec, sink, handle))
        self._tasks.add(handle.task)
        handle.task.add_done_callback(self._tasks.discard)
        return handle

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _play(script: Script, spec: RequestSpec, sink: ClientSink, handle: FakeHandle) -> None:
    await asyncio.sleep(script.hold_s)
    handle.wait = None
    if script.assigned:
        sink.on_assigned("sim-0", "chat")
    for delta in _deltas(script, spec):
        await asyncio.sleep(script.delay_s)
        await handle.running.wait()
        sink.on_delta(delta)
    if script.hang:
        await asyncio.Event().wait()
    handle.finished = True
    if script.error is not None:
        sink.on_error(script.error)
    else:
        sink.on_done(Outcome(script.finish, spec.prompt_tokens, len(script.words), 0))


def _deltas(script: Script, spec: RequestSpec) -> Iterable[Delta]:
    if script.raw:
        return [Delta(raw=raw) for raw in script.raw]
    return [_delta(index, word, spec) for index, word in enumerate(script.words)]


def _delta(index: int, word: str, spec: RequestSpec) -> Delta:
    if spec.sampling.logprobs is None:
        return Delta(text=word, token_ids=(index + 97,))
    top = tuple((index + 97 + k, -0.5 - k) for k in range(spec.sampling.logprobs))
    logprob = TokenLogprob(index + 97, -0.5, top)
    return Delta(text=word, token_ids=(index + 97,), logprobs=(logprob,))


class FakeModels:
    """A catalogue whose tokenizer makes one token of each byte. `raw` models have none."""

    rule_headers: Collection[str] = ("x-tier",)

    def __init__(self, models: Sequence[ServedModel] | None = None) -> None:
        if models is None:
            models = [
                ServedModel("chat", "chat", "simulated", 256),
                ServedModel("guided", "guided", "vllm", 4096),
                ServedModel("raw", "raw", "openai", 0),
            ]
        self._models = {model.name: model for model in models}
        self.forwarded: list[tuple[str, str, bytes]] = []

    def add(self, model: ServedModel) -> None:
        self._models[model.name] = model

    def ready(self) -> bool:
        return True

    def served(self) -> Sequence[ServedModel]:
        return list(self._models.values())

    def find(self, name: str) -> ServedModel | None:
        return self._models.get(name)

    async def encode_text(self, model: ServedModel, text: str) -> tuple[int, ...] | None:
        return None if model.engine_type == "openai" else tuple(text.encode())

    async def accept_ids(self, model: ServedModel, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        return None if model.engine_type == "openai" else ids

    async def encode_chat(self, model: ServedModel, chat: ChatPrompt) -> tuple[int, ...] | None:
        if any(message["role"] == "nobody" for message in chat.messages):
            raise PromptInvalid("the chat template knows no role `nobody`")
        lines = [f"{message['role']}: {message['content']}\n" for message in chat.messages]
        return await self.encode_text(model, "".join(lines) + str(chat.tools or ""))

    def begins_reasoning(self, model: ServedModel, ids: Sequence[int]) -> bool:
        return bytes(ids).rstrip().endswith(b"<think>")

    def why_text(self, model: ServedModel) -> str:
        return "no_tokenizer"

    def block_hashes(self, model: ServedModel, tenant: str, ids: Sequence[int]) -> bytes:
        return b"\0" * 8 * (len(ids) // 16)

    def text_block_hashes(self, model: ServedModel, tenant: str, text: bytes) -> bytes:
        return b"\0" * 8 * (len(text) // 64)

    def token_bytes(self, model: ServedModel, token_id: int) -> bytes:
        return bytes((token_id % 256,))

    async def forward(self, model: ServedModel, path: str, body: bytes) -> tuple[int, bytes]:
        if model.engine_type == "simulated":
            raise NotSupported
        self.forwarded.append((model.name, path, body))
        return 200, b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}]}'
