"""Blocks on the wire: a worker's layers one after the other, in chunks of at most 1 MiB.

A layer that is larger comes in parts: the last one has `layers` 1, and those before it 0.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from shunter_proto.v1 import moves_pb2 as pb
from shunter_vllm.folder import BlockDamaged
from shunter_vllm.layout import EngineFacts
from shunter_vllm.leases import Store

MAX_CHUNK_BYTES = 1 << 20


def block_chunks(store: Store, key: bytes, first_token: int) -> Iterator[pb.KvChunk]:
    """`first_layer` counts the layers of worker 0, then those of worker 1, and so on. Raises
    `OSError` and `BlockDamaged`."""
    facts = store.facts
    for rank in range(facts.tensor_parallel):
        payload = store.folder.read(key, rank)
        if len(payload) != facts.block_bytes:
            raise BlockDamaged(f"{key.hex()}: {len(payload)} bytes, not {facts.block_bytes}")
        for layer, layers, data in _parts(payload, facts.layers):
            yield pb.KvChunk(
                first_token=first_token,
                tokens=facts.block_tokens,
                first_layer=rank * facts.layers + layer,
                layers=layers,
                data=bytes(data),
                crc32=zlib.crc32(data),
                block_key=key,
            )


def _parts(payload: memoryview, layers: int) -> Iterator[tuple[int, int, memoryview]]:
    """First layer, how many layers end here, and the bytes."""
    layer_bytes = len(payload) // layers
    together = max(1, MAX_CHUNK_BYTES // layer_bytes)
    for layer in range(0, layers, together):
        count = min(together, layers - layer)
        first, end = layer * layer_bytes, (layer + count) * layer_bytes
        while end - first > MAX_CHUNK_BYTES:
            yield layer, 0, payload[first : first + MAX_CHUNK_BYTES]
            first += MAX_CHUNK_BYTES
        yield layer, count, payload[first:end]


@dataclass(slots=True)
class BlockAssembly:
    """Puts one block's chunks together, in order and none twice."""

    facts: EngineFacts
    first_token: int
    parts: list[list[bytes]] = field(init=False)  # of each worker
    layer: int = 0
    size_bytes: int = 0
    key: bytes = b""

    def __post_init__(self) -> None:
        self.parts = [[] for _ in range(self.facts.tensor_parallel)]

    def take(self, chunk: pb.KvChunk) -> bool:
        """False: damaged, or not the next one."""
        layers = self.facts.layers
        fits = (
            chunk.first_token == self.first_token
            and chunk.tokens == self.facts.block_tokens
            and chunk.first_layer == self.layer
            and chunk.layers <= layers - self.layer % layers
            and self.layer < layers * self.facts.tensor_parallel
            and self._fills(chunk)
        )
        if not fits or zlib.crc32(chunk.data) != chunk.crc32:
            return False
        if self.key and chunk.block_key != self.key:
            return False
        self.key = chunk.block_key
        self.parts[self.layer // layers].append(chunk.data)
        self.layer += chunk.layers
        self.size_bytes += len(chunk.data)
        return True

    def _fills(self, chunk: pb.KvChunk) -> bool:
        """Whole layers end where they should, and parts of one before it does."""
        layer_bytes = self.facts.block_bytes // self.facts.layers
        end = self.size_bytes + len(chunk.data)
        if chunk.layers:
            return end == (self.layer + chunk.layers) * layer_bytes
        return self.size_bytes < end < (self.layer + 1) * layer_bytes

    @property
    def complete(self) -> bool:
        return self.layer == self.facts.layers * self.facts.tensor_parallel
