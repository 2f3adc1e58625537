"""What leaves a process as log lines, and what never does."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shunter_runtime.logs import SENSITIVE_KEYS, configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging("info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def test_one_json_line_an_event(lines: io.StringIO) -> None:
    structlog.get_logger().info("request.assigned", request_id="r-1", pool="chat", waited_s=0.5)
    structlog.get_logger().debug("not at this level")

    (line,) = lines.getvalue().splitlines()
    event = json.loads(line)

    assert event["event"] == "request.assigned"
    assert (event["request_id"], event["pool"], event["waited_s"]) == ("r-1", "chat", 0.5)
    assert event["level"] == "info" and event["timestamp"].endswith("Z")


@pytest.mark.parametrize("key", sorted(SENSITIVE_KEYS))
def test_prompts_and_credentials_are_dropped_at_any_depth(lines: io.StringIO, key: str) -> None:
    log = structlog.get_logger()
    log.info("a", **{key: "hunter2"})
    log.info("b", **{key.upper().replace("_", "-"): "hunter2"})
    log.info("c", request={"choices": [{key: "hunter2", "index": 0}]})

    assert "hunter2" not in lines.getvalue()
    assert len(lines.getvalue().splitlines()) == 3


def test_credentials_inside_strings_are_blanked(lines: io.StringIO) -> None:
    log = structlog.get_logger()
    log.info("call", header="Authorization: Bearer abc.def-123", detail="sk-live-12345678 refused")
    try:
        raise ValueError("Bearer abc.def-123 is not known")
    except ValueError:
        log.exception("failed")

    out = lines.getvalue()
    assert "abc.def" not in out and "12345678" not in out
    assert "[redacted] refused" in out and "ValueError" in out


def test_bytes_are_logged_by_their_length_only(lines: io.StringIO) -> None:
    structlog.get_logger().info("frame", payload=b"what is the capital", items=[b"of France"])

    assert "capital" not in lines.getvalue() and "France" not in lines.getvalue()
    assert json.loads(lines.getvalue())["payload"] == "[19 bytes]"


def test_libraries_warnings_take_the_same_form(lines: io.StringIO) -> None:
    logging.getLogger("aiohttp.access").info("GET / of no interest")
    logging.getLogger("aiohttp").warning("connection lost: %s", "Bearer abcdef")

    event = json.loads(lines.getvalue())
    assert event["event"] == "connection lost: [redacted]"
    assert event["level"] == "warning"


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'loud'"):
        configure_logging("loud")
