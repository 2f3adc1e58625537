"""A parsed client request: the choices to run and how to render them."""

from dataclasses import dataclass, field
from typing import Literal

from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.request import RequestSpec, WorkflowStage
from shunter_text.answer_parts import AnswerParser, Tags


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, from the API key and the headers that the key may set."""

    request_id: str
    tenant: str = "default"
    slo_class: str = ""
    allowed_classes: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)  # those that routing rules look at
    deadline_s: float = 0.0
    workflow: WorkflowStage | None = None
    trace_parent: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """How an answer is rendered. `raw`: a text-level engine's own events pass through."""

    kind: Literal["chat", "completion"]
    request_id: str
    model: str
    created: int  # seconds since the Unix epoch
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    token_ids: bool = False
    raw: bool = False
    choices_per_prompt: int = 1
    parts: "Parts | None" = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the gateway looks for in an answer to a chat."""

    reasoning: Tags | None
    tool_calls: Tags | None
    begun_reasoning: bool

    def parser(self) -> AnswerParser:
        return AnswerParser(self.reasoning, self.tool_calls, self.begun_reasoning)


@dataclass(frozen=True, slots=True)
class Job:
    """One spec per choice, prompt by prompt; a raw job has one spec whatever `n` is."""

    model: ServedModel
    shape: Shape
    specs: tuple[RequestSpec, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    max_body_bytes: int = 8 << 20
    max_choices: int = 128  # n times prompts, of one request
