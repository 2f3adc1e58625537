"""vLLM's OpenAI server: prompts as ids, `return_token_ids`, priorities, abort by disconnect.

It refuses any priority but 0 unless started with `--scheduling-policy priority`, which nothing
tells from outside: such a server is asked again without, and remembered.
"""

from dataclasses import replace

from shunter_gateway.engines.completions import CompletionsAdapter
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.ports import (
    Capabilities,
    EngineAdapter,
    EngineCall,
    EngineFailure,
    EngineRequest,
    TokenChunk,
    TokenSink,
)

CAPABILITIES = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=False,
    embeddings=True,
    freezes=False,
    prompt_penalties=frozenset({"repetition"}),  # docs.vllm.ai, SamplingParams
)


class VllmAdapter(CompletionsAdapter):
    def __init__(self, client: HttpClient) -> None:
        super().__init__("vllm", CAPABILITIES, client)

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        if request.token_ids is None or not request.priority:
            return super().start(request, sink)
        if request.address in self.unordered:
            return super().start(replace(request, priority=0), sink)
        return _CallWithPriority(self, request, sink)

    def start_unordered(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        self.unordered.add(request.address)
        return super().start(replace(request, priority=0), sink)

    def start_ordered(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        return super().start(request, sink)


class _CallWithPriority:
    """An `EngineCall` that is repeated without its priority if that was what vLLM refused."""

    def __init__(self, adapter: VllmAdapter, request: EngineRequest, sink: TokenSink) -> None:
        self._adapter = adapter
        self._request = request
        self._sink = sink
        self._over = False
        self._paused = False
        self._call = adapter.start_ordered(request, self)

    def abort(self) -> None:
        self._over = True
        self._call.abort()

    def pause(self) -> None:
        self._paused = True
        self._call.pause()

    def resume(self) -> None:
        self._paused = False
        self._call.resume()

    def on_chunk(self, chunk: TokenChunk) -> None:
        self._sink.on_chunk(chunk)

    def on_end(self) -> None:
        self._sink.on_end()

    def on_failure(self, failure: EngineFailure) -> None:
        if self._over:
            return
        if failure.reason != "client" or b"riority scheduling" not in failure.body:
            self._sink.on_failure(failure)
            return
        self._call = self._adapter.start_unordered(self._request, self._sink)
        if self._paused:
            self._call.pause()


def vllm(client: HttpClient) -> EngineAdapter:
    return VllmAdapter(client)
