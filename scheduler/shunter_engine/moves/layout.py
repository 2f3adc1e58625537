"""How a KV cache is cut and written down on its way to another engine. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256

import numpy as np

from shunter_proto.v1 import moves_pb2 as pb

STATE_VERSION = 1  # of what travels: grows with each change of the form of a chunk
MAX_CHUNK_BYTES = 1 << 20
CHUNK_BYTES = 256 << 10  # as they are cut: writing one down holds up the steps beside it
MAX_PART_BYTES = 16 << 20  # of the real model's memory, where a stand-in travels
_WORD_CHARS = 12  # of a digest: tells layouts apart, authenticates nothing


@dataclass(frozen=True, slots=True)
class KvLayout:
    """What has to be equal on both sides, and what a token takes. Sizes are of one engine."""

    revision: str  # digest of the weights
    tokenizer_digest: str
    dtype: str  # NumPy's name
    block_tokens: int
    layers: int
    kv_heads: int
    head_dim: int
    tensor_parallel: int = 1
    model_bytes_per_token: int = 0  # of a simulated model; 0: what travels is what there is

    @property
    def layer_bytes_per_token(self) -> int:
        """Keys and values of one token in one layer, as they travel."""
        return 2 * self.kv_heads * self.head_dim * np.dtype(self.dtype).itemsize

    @property
    def bytes_per_token(self) -> int:
        return self.model_bytes_per_token or self.layers * self.layer_bytes_per_token

    def manifest(self) -> pb.Manifest:
        return pb.Manifest(
            revision=self.revision,
            tokenizer_digest=self.tokenizer_digest,
            dtype=self.dtype,
            block_tokens=self.block_tokens,
            layers=self.layers,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            tensor_parallel=self.tensor_parallel,
            state_version=STATE_VERSION,
        )

    def word(self) -> str:
        """The manifest as a word: equal words, equal manifests."""
        identity = f"{self.revision}\0{self.tokenizer_digest}".encode()
        digest = blake2b(identity, digest_size=_WORD_CHARS // 2).hexdigest()
        return (
            f"shunter-{STATE_VERSION}-{self.dtype}-b{self.block_tokens}-l{self.layers}"
            f"-h{self.kv_heads}-d{self.head_dim}-tp{self.tensor_parallel}-{digest}"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Some tokens in some layers: what one chunk carries."""

    first_token: int
    tokens: int
    first_layer: int
    layers: int


def part_bytes(layout: KvLayout, part: Part) -> int:
    return part.tokens * part.layers * layout.layer_bytes_per_token


def parts(layout: KvLayout, first_token: int, end_token: int) -> Iterator[Part]:
    """Cuts tokens into chunks of about `CHUNK_BYTES`: whole blocks in all layers where they fit,
    else one block in some layers, at least one. `first_token` is the first of its block."""
    block = layout.block_tokens
    whole = min(
        CHUNK_BYTES // (layout.layers * layout.layer_bytes_per_token),
        MAX_PART_BYTES // layout.bytes_per_token,
    )
    tokens = max(whole // block, 1) * block
    layers = min(layout.layers, max(CHUNK_BYTES // (block * layout.layer_bytes_per_token), 1))
    for first in range(first_token, end_token, tokens):
        count = min(tokens, end_token - first)
        for layer in range(0, layout.layers, layers):
            yield Part(first, count, layer, min(layers, layout.layers - layer))


@dataclass(slots=True)
class Cursor:
    """Which chunk has to come next, so that none is lost, doubled or out of order."""

    layout: KvLayout
    token: int  # all before it are here, in all layers
    layer: int = 0
    tokens: int = 0  # of the parts that fill the layers of these tokens

    def take(self, part: Part) -> bool:
        """False: not the next one."""
        begins = (part.first_token, part.first_layer) == (self.token, self.layer)
        begins = begins and part.first_token % self.layout.block_tokens == 0
        fits = part.tokens > 0 and 0 < part.layers <= self.layout.layers - self.layer
        if not begins or not fits or (self.layer and part.tokens != self.tokens):
            return False
        self.tokens = part.tokens
        self.layer += part.layers
        if self.layer == self.layout.layers:
            self.token, self.layer = self.token + part.tokens, 0
        return True


def tokens_digest(token_ids: Sequence[int]) -> bytes:
    """SHA-256 of the ids as little-endian uint32."""
    return sha256(np.asarray(token_ids, "<u4").tobytes()).digest()
