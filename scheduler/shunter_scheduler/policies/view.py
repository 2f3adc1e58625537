"""What policies look at that follow an engine's own numbers, or outstanding work."""

import hashlib

import numpy as np
from msgspec import Struct


class Look(Struct, frozen=True, gc=False):
    """One instance: its engine at its last step, and what the ledger knows of it."""

    name: str
    running: float
    waiting: float
    kv_free_tokens: float
    waiting_kv_tokens: float  # that the waiting ask for
    sent: float  # requests that were sent there and that the engine did not show yet
    sent_kv_tokens: float  # of their prompts
    kv_capacity_tokens: float
    high_priority: float  # requests of classes above `standard`
    work_s: float  # outstanding, each request alone in a middling batch
    step_s: float  # of a middling batch


class EngineView:
    """Struct of arrays over slots, of `Look`'s fields; `keys` are hashes of the names."""

    __slots__ = (
        "_data",
        "_names",
        "high_priority",
        "keys",
        "kv_capacity_tokens",
        "kv_free_tokens",
        "running",
        "sent",
        "sent_kv_tokens",
        "step_s",
        "waiting",
        "waiting_kv_tokens",
        "work_s",
    )

    def __init__(self, capacity: int) -> None:
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self._data = data = np.zeros((10, capacity))
        self.running, self.waiting, self.kv_free_tokens, self.waiting_kv_tokens = data[:4]
        self.sent, self.sent_kv_tokens, self.kv_capacity_tokens, self.high_priority = data[4:8]
        self.work_s, self.step_s = data[8:]
        self.keys = np.zeros(capacity, dtype=np.uint64)
        self._names = [""] * capacity

    def grow(self, capacity: int) -> None:
        """To more slots; what is in the old ones stays."""
        data, keys, names = self._data, self.keys, self._names
        self._allocate(capacity)
        self._data[:, : len(names)], self.keys[: len(names)] = data, keys
        self._names[: len(names)] = names

    def put(self, slot: int, look: Look) -> None:
        if self._names[slot] != look.name:
            self._names[slot] = look.name
            digest = hashlib.blake2b(look.name.encode(), digest_size=8).digest()
            self.keys[slot] = int.from_bytes(digest, "little")
        self._data[:, slot] = (
            look.running,
            look.waiting,
            look.kv_free_tokens,
            look.waiting_kv_tokens,
            look.sent,
            look.sent_kv_tokens,
            look.kv_capacity_tokens,
            look.high_priority,
            look.work_s,
            look.step_s,
        )
