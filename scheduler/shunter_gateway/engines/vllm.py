"""vLLM's OpenAI server: prompts as ids, `return_token_ids`, priorities, abort by disconnect.

Its priorities order only under `--scheduling-policy priority`; otherwise it refuses any but 0, so
the value is sent only where the scheduler gave one.
"""

from shunter_gateway.engines.completions import CompletionsAdapter
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.ports import Capabilities, EngineAdapter

CAPABILITIES = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=False,
    embeddings=True,
)


def vllm(client: HttpClient) -> EngineAdapter:
    return CompletionsAdapter("vllm", CAPABILITIES, client)
