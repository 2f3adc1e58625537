"""The catalogue as the scheduler's topology has it, with each model's tokenizer."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from shunter_gateway.edge.ports import (
    ChatPrompt,
    EnginesBusy,
    ModelLoading,
    NotSupported,
    Parsers,
    PromptInvalid,
    ServedModel,
)
from shunter_gateway.ports import EngineAdapter, EngineUnavailable, ExtraField
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import Pool, Topology
from shunter_text.answer_parts import REASONING_FORMATS, TOOL_CALL_FORMATS
from shunter_text.blocks import BLOCK_TOKENS, block_hashes, chain_root
from shunter_text.chat import ChatTemplateError
from shunter_text.tokenizer import TextTooLong, Tokenizer

# Below this a thread's hand-over takes longer than the tokenizer (1 to 2 µs per token).
_INLINE_CHARS = 1024
_BYTES_PER_TOKEN = 4
_FORWARD_TRIES = 2
_TAG_TOKENS = 16  # that the tag which begins reasoning, and white space after it, may have
_LOAD_WAIT_S = 30.0  # of one request for a tokenizer that is being fetched


class LiveModels:
    """`Models` over the newest topology."""

    def __init__(
        self,
        topology: Callable[[], Topology | None],
        tokenizers: TokenizerRegistry,
        adapters: Mapping[str, EngineAdapter],
        rng: random.Random,
        now: Callable[[], datetime],
        load_wait_s: float = _LOAD_WAIT_S,
    ) -> None:
        self._topology = topology
        self._tokenizers = tokenizers
        self._adapters = adapters
        self._rng = rng
        self._now = now
        self._load_wait_s = load_wait_s

    @property
    def rule_headers(self) -> frozenset[str]:
        topology = self._topology()
        return topology.rule_headers if topology is not None else frozenset()

    def ready(self) -> bool:
        return self._topology() is not None

    def served(self) -> Sequence[ServedModel]:
        topology = self._topology()
        if topology is None:
            return ()
        names = [*topology.pools_by_model, *sorted(topology.rule_models)]
        return [model for name in dict.fromkeys(names) if (model := self.find(name)) is not None]

    def find(self, name: str) -> ServedModel | None:
        topology = self._topology()
        if topology is None or not topology.serves(name):
            return None
        own, pools = topology.pools_by_model.get(name), topology.pools_of(name)
        types = {pool.engine_type for pool in pools}
        return ServedModel(
            name=name,
            pool=own.name if own is not None else "",
            engine_type=types.pop() if len(types) == 1 else "",
            context_length=_longest_context(pools),
            model_sources=tuple(dict.fromkeys(pool.model_source for pool in pools)),
            revision=pools[0].revision if pools else name,
            parsers=self._parsers(pools),
            ignores=self._ignored(pools),
        )

    def _ignored(self, pools: Sequence[Pool]) -> frozenset[ExtraField]:
        adapters = [self._adapters.get(pool.engine_type) for pool in pools]
        ignored = [adapter.capabilities.ignores for adapter in adapters if adapter is not None]
        return frozenset.intersection(*ignored) if ignored else frozenset()

    def _parsers(self, pools: Sequence[Pool]) -> Parsers:
        """Those that all pools agree on, where the engines' tokens can be read: else the engine
        answers in text, and finds the parts itself."""
        if any(not self._takes_ids(pool) for pool in pools):
            return Parsers()
        reasoning = {pool.reasoning_parser for pool in pools}
        tool_calls = {pool.tool_call_parser for pool in pools}
        return Parsers(
            reasoning=REASONING_FORMATS.get(reasoning.pop()) if len(reasoning) == 1 else None,
            tool_calls=TOOL_CALL_FORMATS.get(tool_calls.pop()) if len(tool_calls) == 1 else None,
            engine_reasoning=any(pool.engine_parses_reasoning for pool in pools),
        )

    def _takes_ids(self, pool: Pool) -> bool:
        adapter = self._adapters.get(pool.engine_type)
        able = adapter is not None and adapter.capabilities.token_ids
        return able and not self._tokenizers.mismatch(pool)

    async def encode_text(self, model: ServedModel, text: str) -> tuple[int, ...] | None:
        tokenizer = await self._tokenizer(model)
        if tokenizer is None:
            return None
        encode = partial(tokenizer.encode, text, max_tokens=model.context_length or None)
        try:
            return await _in_thread(len(text), encode)
        except TextTooLong as error:
            raise _too_long(error) from error

    def begins_reasoning(self, model: ServedModel, ids: Sequence[int]) -> bool:
        tags = model.parsers.reasoning
        if tags is None:
            return False
        end = b"".join(self.token_bytes(model, token_id) for token_id in ids[-_TAG_TOKENS:])
        return end.rstrip().endswith(tags.begin.encode())

    async def accept_ids(self, model: ServedModel, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        return ids if await self._tokenizer(model) is not None else None

    async def encode_chat(self, model: ServedModel, chat: ChatPrompt) -> tuple[int, ...] | None:
        tokenizer = await self._tokenizer(model)
        if tokenizer is None:
            return None
        size = sum(_size(message.get("content")) for message in chat.messages)
        encode = partial(
            tokenizer.encode_chat,
            chat.messages,
            chat.tools,
            chat.add_generation_prompt,
            self._now(),
            model.context_length or None,
        )
        try:
            return await _in_thread(_INLINE_CHARS if chat.tools else size, encode)
        except ChatTemplateError as error:
            raise PromptInvalid(str(error)) from error
        except TextTooLong as error:
            raise _too_long(error) from error

    def why_text(self, model: ServedModel) -> str:
        several = len(model.model_sources) > 1 and not self._alike(model.model_sources)
        return "several_tokenizers" if several else "no_tokenizer"

    def block_hashes(self, model: ServedModel, tenant: str, ids: Sequence[int]) -> bytes:
        return block_hashes(ids, self._root(model, "", tenant), self._block_tokens())

    def text_block_hashes(self, model: ServedModel, tenant: str, text: bytes) -> bytes:
        root = self._root(model, "bytes", tenant)
        return block_hashes(text, root, self._block_tokens() * _BYTES_PER_TOKEN)

    def token_bytes(self, model: ServedModel, token_id: int) -> bytes:
        sources = model.model_sources
        tokenizer = self._tokenizers.known(sources[0]) if sources else None
        return tokenizer.token_bytes(token_id) if tokenizer is not None else b""

    async def forward(self, model: ServedModel, path: str, body: bytes) -> tuple[int, bytes]:
        topology, pool = self._topology(), self._pool(model)
        adapter = self._adapters.get(pool.engine_type) if pool is not None else None
        if topology is None or pool is None or adapter is None:
            raise NotSupported
        if not adapter.capabilities.embeddings:
            raise NotSupported
        members = [i for i in topology.instances_by_pool.get(pool.name, ()) if not i.draining]
        self._rng.shuffle(members)
        busy = False
        for instance in members[:_FORWARD_TRIES]:
            try:
                status, answer = await adapter.forward(
                    instance.address, path, _with_model(body, pool.model_names[0])
                )
            except EngineUnavailable:
                continue
            if status == 404:
                raise NotSupported
            if status != 429:
                return status, answer
            busy = True
        if busy:
            raise EnginesBusy(f"the engines of {model.name} are busy")
        raise EngineUnavailable(f"no instance of {model.name} answered")

    def _pool(self, model: ServedModel) -> Pool | None:
        topology = self._topology()
        return topology.pools.get(model.pool) if topology is not None else None

    async def _tokenizer(self, model: ServedModel) -> Tokenizer | None:
        """None without one, or where the pools that the model may go to differ in it."""
        sources = model.model_sources
        try:
            async with asyncio.timeout(self._load_wait_s):
                loaded = [await self._tokenizers.tokenizer(source) for source in sources]
        except TimeoutError:
            raise ModelLoading(f"the tokenizer of {model.name} is still being loaded") from None
        return loaded[0] if loaded and self._alike(sources) else None

    def _alike(self, sources: Sequence[str]) -> bool:
        return all(self._tokenizers.same_tokenizer(sources[0], other) for other in sources[1:])

    def _root(self, model: ServedModel, kind: str, tenant: str) -> int:
        return chain_root(model.revision, kind, tenant)

    def _block_tokens(self) -> int:
        topology = self._topology()
        return (topology.block_tokens if topology is not None else 0) or BLOCK_TOKENS


def _longest_context(pools: Sequence[Pool]) -> int:
    """Tokens; what fits none of the pools is refused here, what fits some the scheduler places."""
    lengths = [pool.context_length for pool in pools]
    return max(lengths) if lengths and all(lengths) else 0


async def _in_thread(chars: int, encode: Callable[[], list[int]]) -> tuple[int, ...]:
    """Long prompts are tokenised off the event loop; the tokenizer releases the lock."""
    return tuple(encode() if chars < _INLINE_CHARS else await asyncio.to_thread(encode))


def _size(content: object) -> int:
    return len(content) if isinstance(content, str) else _INLINE_CHARS


def _with_model(body: bytes, model: str) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _too_long(error: TextTooLong) -> PromptInvalid:
    return PromptInvalid(f"The prompt {error}.", "context_length_exceeded")
