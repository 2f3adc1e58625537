"""What the edge needs to know about models; the topology and the tokenizers stand behind it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shunter_gateway.ports import ExtraField
from shunter_text.answer_parts import Tags

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsers:
    """Who finds the parts of an answer to a chat."""

    reasoning: Tags | None = None  # the gateway, by these
    tool_calls: Tags | None = None
    engine_reasoning: bool = False  # the engine, in what it gets as text


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as a client named it: a pool's name or alias, or a name that only rules know."""

    name: str
    pool: str  # empty where a rule chooses among pools
    engine_type: str  # empty where a rule chooses among pools of several types
    context_length: int  # tokens; 0: not known
    model_sources: tuple[str, ...] = ()  # of the pools that it may go to, each once
    revision: str = ""  # of the first of them
    parsers: Parsers = Parsers()
    ignores: frozenset[ExtraField] = frozenset()  # fields that none of its engines obeys

    @property
    def tokenizer_source(self) -> str:
        """The model source whose tokenizer makes the prompt's ids; empty: none."""
        return self.model_sources[0] if self.model_sources else ""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a chat template renders."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True


class ModelLoading(Exception):
    """The model's tokenizer is still being loaded; the client may come back."""


class EnginesBusy(Exception):
    """All engines that were asked refused for overload."""


class PromptInvalid(Exception):
    """The prompt cannot be rendered or tokenised, or is too long for that; the message is the
    client's, and `code` is OpenAI's."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Models(Protocol):
    """The catalogue of what is served, and its tokenizers."""

    @property
    def rule_headers(self) -> Collection[str]:
        """Request headers that routing rules look at, lower case."""

    def ready(self) -> bool:
        """A topology is known."""

    def served(self) -> Sequence[ServedModel]:
        """Every name that clients may ask for."""

    def find(self, name: str) -> ServedModel | None: ...

    async def encode_text(self, model: ServedModel, text: str) -> tuple[int, ...] | None:
        """Token ids of a plain prompt; None without a tokenizer. Raises `PromptInvalid`, and, as
        all that needs the tokenizer, `ModelLoading`."""

    def begins_reasoning(self, model: ServedModel, ids: Sequence[int]) -> bool:
        """Whether a chat's prompt ends with the tag that begins reasoning."""

    async def accept_ids(self, model: ServedModel, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        """A prompt that came as ids; None where the gateway could not turn the answer into text."""

    async def encode_chat(self, model: ServedModel, chat: ChatPrompt) -> tuple[int, ...] | None:
        """Token ids of a conversation by the model's chat template; None without a tokenizer.
        Raises `PromptInvalid`."""

    def why_text(self, model: ServedModel) -> str:
        """The reason where there are no ids: `no_tokenizer`, or `several_tokenizers` where rules
        choose among pools whose models are tokenised differently."""

    def block_hashes(self, model: ServedModel, tenant: str, ids: Sequence[int]) -> bytes:
        """Packed chain hashes of the prompt's full blocks, for the scheduler's prefix index."""

    def text_block_hashes(self, model: ServedModel, tenant: str, text: bytes) -> bytes:
        """The same over byte blocks, for prompts that are not tokenised."""

    def token_bytes(self, model: ServedModel, token_id: int) -> bytes:
        """One token as bytes, for log probabilities."""

    async def forward(self, model: ServedModel, path: str, body: bytes) -> tuple[int, bytes]:
        """One plain call to an engine (embeddings): status and body. Raises `NotSupported` where
        the engine has no such call, `EnginesBusy` and `EngineUnavailable` where none answers."""


class NotSupported(Exception):
    """The model's engine cannot do what was asked."""
