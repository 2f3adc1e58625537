"""Any OpenAI-compatible server: text goes through as it is, and only an unanswered request can
be started again elsewhere."""

from collections.abc import Collection

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.plain_call import plain_call
from shunter_gateway.engines.textlevel import start_text_call
from shunter_gateway.ports import (
    Capabilities,
    EngineAdapter,
    EngineCall,
    EngineRequest,
    EngineUnavailable,
    TokenSink,
)

CAPABILITIES = Capabilities(
    token_ids=False,
    prefix_caching=False,
    priority=False,
    abort=True,
    output_offset=False,
    embeddings=True,
)


class OpenAIAdapter:
    engine_type = "openai"
    capabilities = CAPABILITIES
    unordered: Collection[str] = ()

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        return start_text_call(self._client, request, sink)

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        raise EngineUnavailable(f"{address}: an OpenAI server does not tokenise")

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return await plain_call(self._client, address, path, body)


def openai(client: HttpClient) -> EngineAdapter:
    return OpenAIAdapter(client)
