"""vLLM's KV events as they come over the wire: msgpack `[timestamp, [event, ...], rank]`.

An event is an array that begins with its name, or a map with the name under `type`. Fields that are
missing or unknown are let pass. Only blocks in GPU memory of plain text count: what an adapter, an
image, a salt or a sliding window went into says nothing about prompts as the index knows them.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shunter_scheduler.domain.events import KvBlocksRemoved, KvBlocksStored, KvCleared

KvEvent = KvBlocksStored | KvBlocksRemoved | KvCleared

MAX_EVENTS = 65_536  # of one batch
MAX_TOKENS = 1 << 20  # of one event
MAX_GROUPS = 256
_HASH_MASK = (1 << 64) - 1

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "BlockStored": (
        *("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"),
        *("lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind"),
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}
_WHOLE_CONTEXT = ("full", "mla", "sink")  # in the names of attention that keeps all tokens

_decode = msgspec.msgpack.Decoder().decode


class KvFormat:
    """Of one engine. `groups` are the cache groups that keep all tokens, by what it said so far."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._groups: set[int] = {0}

    def events(self, payload: bytes) -> list[KvEvent]:
        """Raises `ValueError` where the payload is no batch."""
        try:
            batch = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"KV events of {self._instance}: no msgpack") from error
        if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):
            raise ValueError(f"KV events of {self._instance}: not [timestamp, [events]]")
        if len(batch[1]) > MAX_EVENTS:
            raise ValueError(f"KV events of {self._instance}: {len(batch[1])} in one batch")
        return [event for one in batch[1] if (event := self._event(one)) is not None]

    def _event(self, raw: object) -> KvEvent | None:
        kind, fields = _fields_of(raw)
        if kind == "AllBlocksCleared":
            return KvCleared(self._instance)
        if kind not in _FIELDS or fields.get("medium") not in (None, "GPU"):
            return None
        hashes = _hashes(fields.get("block_hashes"))
        if kind == "BlockStored":
            return self._stored(fields, hashes) if hashes else None
        if hashes and self._counts(_group(fields)):
            return KvBlocksRemoved(self._instance, hashes)
        return None

    def _stored(self, fields: Mapping[str, Any], hashes: tuple[int, ...]) -> KvEvent | None:
        tokens, size = fields.get("token_ids"), fields.get("block_size")
        parent = fields.get("parent_block_hash")
        if not isinstance(tokens, list) or len(tokens) > MAX_TOKENS or not isinstance(size, int):
            return None
        if not self._keeps_all(fields) or _keyed(fields):
            return None
        above = None if parent is None else _hash(parent)
        if above is None and parent is not None:
            return None
        if size < 1 or len(hashes) * size > len(tokens):
            return None
        try:
            content = array("I", tokens)
        except (TypeError, OverflowError):
            return None
        return KvBlocksStored(self._instance, hashes, above, content, size)

    def _keeps_all(self, fields: Mapping[str, Any]) -> bool:
        """Of a hybrid model's groups only those with full attention stand for a prefix."""
        group, kind = _group(fields), fields.get("kv_cache_spec_kind")
        if isinstance(kind, str) and group is not None and 0 <= group < MAX_GROUPS:
            whole = any(part in kind for part in _WHOLE_CONTEXT)
            (self._groups.add if whole else self._groups.discard)(group)
        return self._counts(group)

    def _counts(self, group: int | None) -> bool:
        return group is None or group in self._groups


def _fields_of(raw: object) -> tuple[str, Mapping[str, Any]]:
    if isinstance(raw, dict):
        return str(raw.get("type", "")), raw
    if isinstance(raw, list) and raw and isinstance(raw[0], str):
        return raw[0], dict(zip(_FIELDS.get(raw[0], ()), raw[1:], strict=False))
    return "", {}


def _group(fields: Mapping[str, Any]) -> int | None:
    """The cache group; None where a model has but one, below 0 where it is none."""
    group = fields.get("group_idx")
    return group if group is None or isinstance(group, int) else -1


def _keyed(fields: Mapping[str, Any]) -> bool:
    """Something beside the tokens went into the hashes."""
    if fields.get("lora_id") is not None or fields.get("lora_name") is not None:
        return True
    extra = fields.get("extra_keys")
    return isinstance(extra, list) and any(extra)


def _hashes(raw: object) -> tuple[int, ...]:
    """Empty where one of them is none."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes) or len(raw) > MAX_TOKENS:
        return ()
    hashes = [_hash(one) for one in raw]
    return () if None in hashes else tuple(one for one in hashes if one is not None)


def _hash(raw: object) -> int | None:
    if isinstance(raw, bytes):
        return int.from_bytes(raw[-8:], "big")
    return raw & _HASH_MASK if isinstance(raw, int) else None
