"""Chat templates: messages to prompt text, in a sandbox.

A template comes with the model and is not trusted: it runs in Jinja's immutable sandbox, sees
nothing but its arguments, and its output is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] or '' }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""The usual ChatML layout, for models that ship no template of their own."""

MAX_PROMPT_CHARS = 8_000_000

Message = Mapping[str, Any]


class ChatTemplateError(ValueError):
    """The messages cannot be rendered: the template refused them or is broken."""


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks training masks; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> Node | list[Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class ChatTemplate:
    """One compiled template. Raises `ChatTemplateError` if `source` is not valid Jinja."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        max_chars: int = MAX_PROMPT_CHARS,
    ) -> None:
        self._special_tokens = dict(special_tokens or {})
        self._max_chars = max_chars
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template is not valid: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
    ) -> str:
        """The prompt text. Without `now` a template finds no `strftime_now` and uses no date."""
        arguments: dict[str, Any] = {
            **self._special_tokens,
            "messages": [_plain(index, message) for index, message in enumerate(messages)],
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        if now is not None:
            arguments["strftime_now"] = now.strftime
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(arguments):
                size += len(piece)
                if size > self._max_chars:
                    raise ChatTemplateError(
                        f"the chat template's output exceeds {self._max_chars} characters"
                    )
                pieces.append(piece)
        except ChatTemplateError:
            raise
        except (jinja2.TemplateError, *_TEMPLATE_FAULTS) as error:
            raise ChatTemplateError(f"the model's chat template failed: {error}") from error
        return "".join(pieces)


# What a template's own expressions can raise at run time besides Jinja's errors; `RuntimeError` is
# also Python's word for too deep a recursion.
_TEMPLATE_FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(OSError, RuntimeError, MemoryError),
)


def _plain(index: int, message: Message) -> Message:
    """Joins a message's text parts, as templates expect text. Other parts are refused."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ChatTemplateError(f"messages[{index}] must be an object with a role")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    if not isinstance(content, Sequence):
        raise ChatTemplateError(f"messages[{index}].content must be text or a list of text parts")
    texts = []
    for part in content:
        is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
        if not is_text or part.get("type", "text") != "text":
            raise ChatTemplateError(f"messages[{index}].content: only text parts are supported")
        texts.append(part["text"])
    return {**message, "content": "\n".join(texts)}


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes HTML characters, which changes the prompt."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
