"""Structured logs: JSON lines on stderr, coloured text on a terminal, one line an event.

What could hold a prompt or a credential is dropped by its key, whatever the caller meant; `bearer`
values are blanked wherever they stand. Values cannot be told from prompts, so: no free text as a
positional argument, log by key.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

SENSITIVE_KEYS = frozenset(
    {
        "prompt", "prompts", "messages", "content", "text", "input", "output", "completion", "body",
        "suffix", "system", "arguments", "tools", "token_ids", "prompt_token_ids", "stop",
        "authorization", "proxy_authorization", "api_key", "apikey", "x_api_key", "api_keys",
        "bearer", "cookie", "set_cookie", "password", "secret", "token", "access_token",
        "credentials", "key", "keys", "private_key", "headers",
    }
)  # fmt: skip
_CREDENTIAL = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}|\bsk-[\w-]{8,}")
_MAX_DEPTH = 6


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Called once by a process's `main`. Loggers are had by `structlog.get_logger()`.

    Raises `ValueError` for an unknown level.
    """
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}: debug, info, warning or error")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor = structlog.processors.JSONRenderer(default=str)
    if stream.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(shared, renderer, stream)


def _route_standard_logging(shared: list[Processor], renderer: Processor, stream: TextIO) -> None:
    """Warnings of the libraries (aiohttp, grpc) leave in the same form."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def redact(_: object, __: str, event: EventDict) -> EventDict:
    """A structlog processor: drops sensitive keys at any depth, blanks credentials in strings."""
    return {key: _clean(value, 0) for key, value in event.items() if not _sensitive(key)}


def _sensitive(key: object) -> bool:
    return isinstance(key, str) and key.lower().replace("-", "_") in SENSITIVE_KEYS


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _CREDENTIAL.sub("[redacted]", value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= _MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, MutableMapping):
        return {k: _clean(v, depth + 1) for k, v in value.items() if not _sensitive(k)}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, depth + 1) for item in value]
    return value
