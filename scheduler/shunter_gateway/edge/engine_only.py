"""What only the engine can do: its state lives there, so such a request cannot be moved.

Each check gives (field of the body, unmovable reason), or None.
"""

from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.edge.schema import ChatBody, CompletionBody, Generation

# Engines that generate and nothing else: they neither guide decoding nor parse tool calls.
PLAIN_ENGINES = frozenset({"simulated", "numpy"})


def _guided(body: Generation) -> tuple[str, str] | None:
    """(param, unmovable reason) of what makes the engine guide its decoding."""
    if body.response_format and body.response_format.get("type") != "text":
        return "response_format", "guided_decoding"
    for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice"):
        if getattr(body, name):
            return name, "guided_decoding"
    if body.guided_grammar:
        return "guided_grammar", "guided_decoding"
    if body.prompt_logprobs is not None:
        return "prompt_logprobs", "prompt_logprobs"
    return None


def chat_engine_only(body: ChatBody, model: ServedModel) -> tuple[str, str] | None:
    for index, message in enumerate(body.messages):
        parts = message.content if isinstance(message.content, list) else []
        if any(part.get("type", "text") != "text" for part in parts):
            return f"messages[{index}].content", "multimodal_input"
    if body.modalities and body.modalities != ["text"]:
        return "modalities", "multimodal_output"
    if body.tools and not _read_here(body, model):
        return "tools", "tool_parsing"
    if model.parsers.engine_reasoning and model.parsers.reasoning is None:
        return "messages", "reasoning_parsing"
    if body.chat_template_kwargs:
        return "chat_template_kwargs", "chat_template"
    if body.continue_final_message:
        return "continue_final_message", "chat_template"
    return _guided(body)


def _read_here(body: ChatBody, model: ServedModel) -> bool:
    """Whether no engine is needed for what the model says about tools. One that has to be called
    guides the engine's decoding."""
    if body.tool_choice == "none" or model.engine_type in PLAIN_ENGINES:
        return True
    return model.parsers.tool_calls is not None and body.tool_choice in (None, "auto")


def completion_engine_only(body: CompletionBody) -> tuple[str, str] | None:
    if body.echo:
        return "echo", "echo"
    if body.suffix:
        return "suffix", "suffix"
    if (body.best_of or 1) > (body.n or 1):
        return "best_of", "best_of"
    return _guided(body)
