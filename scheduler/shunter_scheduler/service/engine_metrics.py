"""What engines say of themselves: the few numbers of their metrics pages that the core wants.

Names: vLLM's (also of `shunter engine`), SGLang's, llama-server's (its KV use comes from `/slots`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class EngineLoad:
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0  # 0 to 1
    kv_capacity_tokens: int = 0  # 0: not reported
    kv_transport: str = ""  # KV caches are copied between equal ones; empty: not at all
    moves_port: int = 0  # of its `EngineMoves`


_Field = Literal["running", "waiting", "kv_cache_usage", "kv_capacity_tokens"]
_GAUGES: Mapping[str, _Field] = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:gpu_cache_usage_perc": "kv_cache_usage",  # vLLM before 0.9
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "kv_cache_usage",
    "sglang:max_total_num_tokens": "kv_capacity_tokens",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
}
_SAMPLE = re.compile(
    r"^((?:vllm|sglang|llamacpp):\w+)(?:\{(.*)\})?\s+([-+.\deEinfINFaN]+)(?:\s+\d+)?\s*$",
    re.MULTILINE,
)
_CACHE_CONFIG = "vllm:cache_config_info"
_KV_MOVES = re.compile(r"^shunter:kv_moves_info\{(.*)\}\s+1(?:\.0)?\s*$", re.MULTILINE)
_MAX_LAYOUT_CHARS = 256
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_metrics(text: str) -> EngineLoad:
    """Sums over a name's label sets (data-parallel ranks); of usage the highest counts."""
    found: dict[_Field, float] = {}
    capacity = 0
    for name, labels, value in _SAMPLE.findall(text):
        if name == _CACHE_CONFIG:
            capacity += _capacity_tokens(labels)
            continue
        field = _GAUGES.get(name)
        number = _number(value) if field else None
        if field is None or number is None:
            continue
        old = found.get(field, 0.0)
        found[field] = max(old, number) if field == "kv_cache_usage" else old + number
    kv_transport, moves_port = _kv_moves(text)
    return EngineLoad(
        running=int(found.get("running", 0)),
        waiting=int(found.get("waiting", 0)),
        kv_cache_usage=min(found.get("kv_cache_usage", 0.0), 1.0),
        kv_capacity_tokens=capacity or int(found.get("kv_capacity_tokens", 0)),
        kv_transport=kv_transport,
        moves_port=moves_port,
    )


def _kv_moves(text: str) -> tuple[str, int]:
    """Layout and port, as `shunter engine` tells them."""
    found = _KV_MOVES.search(text)
    labels = dict(_LABEL.findall(found.group(1))) if found is not None else {}
    layout, port = labels.get("layout", ""), labels.get("port", "")
    if not port.isdigit() or not 0 < int(port) < 65536 or not 0 < len(layout) <= _MAX_LAYOUT_CHARS:
        return "", 0
    return layout, int(port)


def publishes_load(text: str) -> bool:
    """Whether a metrics page has any of the numbers that `parse_metrics` reads."""
    return any(name in _GAUGES for name, _, _ in _SAMPLE.findall(text))


def _capacity_tokens(labels: str) -> int:
    values = dict(_LABEL.findall(labels))
    blocks, size = values.get("num_gpu_blocks", ""), values.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdigit() and size.isdigit() else 0


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None


class _NextToken(msgspec.Struct):
    n_decoded: int = 0


class _Slot(msgspec.Struct):
    """llama-server's; `next_token` is one object or a list of them, by version. Newer ones count
    what was generated among `n_prompt_tokens`, and tell the prompt's two parts apart."""

    n_ctx: int = 0
    is_processing: bool = False
    n_prompt_tokens: int = 0
    n_prompt_tokens_processed: int | None = None
    n_prompt_tokens_cache: int | None = None
    next_token: _NextToken | list[_NextToken] = msgspec.field(default_factory=_NextToken)


_SLOTS = msgspec.json.Decoder(list[_Slot])


def with_slots(load: EngineLoad, body: bytes) -> EngineLoad:
    """Adds KV capacity and use from llama-server's `/slots`. Raises `ValueError`."""
    try:
        slots = _SLOTS.decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"/slots: {error}") from error
    capacity = sum(slot.n_ctx for slot in slots)
    used = sum(_used(slot) for slot in slots if slot.is_processing)
    usage = min(used / capacity, 1.0) if capacity else 0.0
    return replace(load, kv_cache_usage=usage, kv_capacity_tokens=capacity)


def _used(slot: _Slot) -> int:
    processed, cached = slot.n_prompt_tokens_processed, slot.n_prompt_tokens_cache
    if processed is None or cached is None:
        return slot.n_prompt_tokens + _decoded(slot)
    return max(slot.n_prompt_tokens, processed + cached + _decoded(slot))


def _decoded(slot: _Slot) -> int:
    tokens: Sequence[_NextToken] = (
        slot.next_token if isinstance(slot.next_token, list) else [slot.next_token]
    )
    return sum(token.n_decoded for token in tokens)
