"""Our own engine server (docs/engine-api.md), whatever backend stands behind it."""

from shunter_gateway.engines.completions import CompletionsAdapter
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.ports import Capabilities, EngineAdapter

CAPABILITIES = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=True,
    embeddings=True,
)


def simulated(client: HttpClient) -> EngineAdapter:
    return CompletionsAdapter("simulated", CAPABILITIES, client)


def numpy(client: HttpClient) -> EngineAdapter:
    return CompletionsAdapter("numpy", CAPABILITIES, client)
