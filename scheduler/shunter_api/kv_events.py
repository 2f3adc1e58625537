"""Where an engine publishes the events of its KV cache: read from the engine's own arguments.

vLLM's `--kv-events-config` is the one place to say it (https://docs.vllm.ai, KVEventsConfig);
`shunter engine` takes the same. SGLang's option of that name has no field that turns events on:
a publisher does (https://docs.sglang.io, server arguments).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shunter_api.arguments import last_value
from shunter_api.engine import EngineType

FLAG = "--kv-events-config"
RANKS_FLAGS = ("--data-parallel-size", "-dp", "--dp-size")  # the last is SGLang's


class KvEventsConfig(BaseModel):
    """vLLM's fields and defaults; those that Shunter has no use for are let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    enable_kv_cache_events: bool = False
    publisher: Literal["zmq", "null"] | None = None
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    hwm: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    topic: str = ""

    @property
    def enabled(self) -> bool:
        return self.enable_kv_cache_events and self.publisher != "null"


@dataclass(frozen=True, slots=True)
class KvEventsEndpoint:
    """Of one engine, as a reader connects to it. `replay` is empty where there is none."""

    events: str
    replay: str
    topic: str


def parse_kv_events_config(text: str) -> KvEventsConfig:
    """Raises `ValueError` with what is wrong."""
    try:
        return KvEventsConfig.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'value'}: {one['msg']}" for one in error.errors()
        )
        raise ValueError(f"{FLAG}: {problems}") from error


def kv_events_of(args: Sequence[str], engine: EngineType = "vllm") -> KvEventsConfig | None:
    """The configuration among an engine's arguments; None where it publishes nothing. Raises
    `ValueError`, also for an engine with data-parallel ranks: each has a cache of its own (and
    publishes on port + rank), and the engine chooses the rank, so that what one of them holds does
    not say what a request finds."""
    text = last_value(args, FLAG)
    config = parse_kv_events_config(text) if text else None
    if config is not None and engine == "sglang":
        config = config.model_copy(update={"enable_kv_cache_events": config.publisher == "zmq"})
    if config is None or not config.enabled:
        return None
    if (ranks := last_value(args, *RANKS_FLAGS)) not in ("", "1"):
        raise ValueError(
            f"{FLAG}: events of data-parallel ranks are not read ({RANKS_FLAGS[0]} {ranks}): let "
            "each rank be an engine of its own, as one more replica"
        )
    return config


def endpoint_of(config: KvEventsConfig, host: str) -> KvEventsEndpoint:
    """Of an engine on `host`. Raises `ValueError` for what is no `tcp://HOST:PORT`."""
    replay = _reached(config.replay_endpoint, host) if config.replay_endpoint else ""
    return KvEventsEndpoint(_reached(config.endpoint, host), replay, config.topic)


def _reached(endpoint: str, host: str) -> str:
    """What an engine binds on all its addresses, or on its loopback, is reached on its host."""
    scheme, _, rest = endpoint.partition("://")
    _, _, port = rest.rpartition(":")
    if scheme != "tcp" or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise ValueError(f"{FLAG}: {endpoint!r} is no tcp://HOST:PORT")
    return f"tcp://{host}:{port}"
