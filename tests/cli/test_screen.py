"""The commands that the screen of `shunter up` offers work when they are typed as they stand."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from shunter.config import parse
from shunter.state import DEFAULT_STATE_DIR
from shunter.up.launch import Endpoints
from shunter.up.plan import plan_engines
from shunter.up.screen import Served, last_words, show

POOL = """\
apiVersion: shunter.dev/v1alpha1
kind: ModelPool
metadata: {name: chat}
spec:
  model: {source: "sim://llama-3.1-8b", name: llama, aliases: [ALIAS]}
  engine: {type: simulated}
  profiles: [{name: h100, accelerator: h100}]
"""
ENDPOINTS = Endpoints("0.0.0.0:80", "0.0.0.0:81", "127.0.0.1:82", "127.0.0.1:83")


def screen(alias: str, served: Served) -> list[str]:
    configuration = parse((("a.yaml", POOL.replace("ALIAS", alias)),) if alias else ())
    console = Console(width=80, record=True, file=StringIO())
    show(console, configuration, plan_engines(configuration)[0], served)
    return console.export_text().splitlines()


def test_with_a_default_model_and_the_usual_directory_nothing_needs_to_be_said() -> None:
    lines = screen("default", Served(ENDPOINTS, DEFAULT_STATE_DIR.absolute(), keyed=False))
    assert lines[-2:] == ["shunter top", "shunter demo failover"]
    (curl,) = [line for line in lines if line.startswith("curl")]
    assert curl.startswith("curl -N http://localhost:80/v1/chat/completions -H 'content-type")
    assert "authorization" not in curl
    assert any("chat-h100-0" in line for line in lines)


def test_what_is_unusual_is_in_the_commands() -> None:
    lines = screen("other", Served(ENDPOINTS, Path("/var/s"), keyed=True))
    assert lines[-2:] == [
        "shunter top --state-dir /var/s",
        "SHUNTER_API_KEY=$KEY shunter demo failover --model llama --state-dir /var/s",
    ]
    assert any('-H "authorization: Bearer $KEY"' in line for line in lines)


def test_without_models_there_is_nothing_to_ask_for() -> None:
    lines = screen("", Served(ENDPOINTS, DEFAULT_STATE_DIR.absolute(), keyed=False))
    assert lines[-1] == "shunter top"
    assert not [line for line in lines if line.startswith("curl")]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("a\nplain words", "plain words"),
        ('{"event": "downloading", "percent": 12.5, "level": "info"}', "downloading, 12.5 %"),
        ('["a list"]', '["a list"]'),
    ],
)
def test_last_words_are_what_was_said(log: str, words: str) -> None:
    assert last_words(log) == words
