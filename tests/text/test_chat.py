from datetime import datetime

import pytest

from shunter_text.chat import CHATML, ChatTemplate, ChatTemplateError
from shunter_text.sources import sim_tokenizer

HELLO = [{"role": "user", "content": "hi"}]


def test_default_layout() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert ChatTemplate(CHATML).render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ChatTemplate(CHATML).render(HELLO, add_generation_prompt=False).endswith("<|im_end|>\n")


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "assistant", "content": None}])
def test_a_message_without_content_is_empty(message: dict[str, object]) -> None:
    rendered = ChatTemplate(CHATML).render([message], add_generation_prompt=False)
    assert rendered == f"<|im_start|>{message['role']}\n<|im_end|>\n"


def test_markers_become_single_tokens() -> None:
    tokenizer = sim_tokenizer()
    ids = tokenizer.encode_chat(HELLO)
    assert tokenizer.token_text(ids[0]) == "<|im_start|>"
    assert [tokenizer.token_text(id_) for id_ in ids].count("<|im_end|>") == 1


def test_template_sees_tools_special_tokens_and_json() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ tools | tojson }}{{ tools | tojson(indent=1) }}", {"bos_token": "<s>"}
    )
    rendered = template.render(HELLO, tools=[{"name": "<é>"}])
    assert rendered == '<s>[{"name": "<é>"}][\n {\n  "name": "<é>"\n }\n]'


def test_no_tools_is_none() -> None:
    template = ChatTemplate("{{ 'none' if tools is none else 'some' }}")
    assert template.render(HELLO, tools=[]) == "none"


def test_the_date_is_an_argument() -> None:
    template = ChatTemplate(
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}-{% endif %}"
    )
    assert template.render(HELLO) == "-"
    assert template.render(HELLO, now=datetime(2026, 3, 1)) == "01 Mar 2026"


def test_loop_controls_and_generation_marks() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    assert template.render(HELLO * 3) == "hi"


def test_text_parts_are_joined() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rendered = ChatTemplate("{{ messages[0].content }}").render(
        [{"role": "user", "content": content}]
    )
    assert rendered == "a\nb"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"content": "x"}, r"messages\[0\] must be an object with a role"),
        ({"role": "user", "content": 3}, r"messages\[0\].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "only text parts"),
        ({"role": "user", "content": [{"type": "image_url", "text": "x"}]}, "only text parts"),
    ],
)
def test_bad_messages_are_named(message: dict[str, object], complaint: str) -> None:
    with pytest.raises(ChatTemplateError, match=complaint):
        ChatTemplate(CHATML).render([message])


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0].content + 1 }}", "failed"),
        ("{{ nothing.there.at_all }}", "undefined"),
        ("{{ messages.append(1) }}", "failed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for i in range(100000) %}{{ 'x' * 100 }}{% endfor %}", "exceeds 2000 characters"),
        ("{{ range(10**9) }}", "failed"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    ],
)
def test_a_template_that_fails_is_a_clear_error(source: str, complaint: str) -> None:
    template = ChatTemplate(source, max_chars=2000)
    with pytest.raises(ChatTemplateError, match=complaint):
        template.render(HELLO)


def test_broken_template_is_refused_at_load() -> None:
    with pytest.raises(ChatTemplateError, match="not valid"):
        ChatTemplate("{% for %}")
