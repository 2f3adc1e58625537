"""Names of KV blocks: each a digest of the layout and of all tokens up to the block's end. Pure."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

KEY_BYTES = 32


def root_key(layout: str, salt: str) -> bytes:
    """Of an empty sequence. Blocks under different roots are never exchanged."""
    return blake2b(f"{layout}\0{salt}".encode(), digest_size=KEY_BYTES).digest()


def next_key(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Of the block with these tokens after the one that `parent` names."""
    ids = array("I", token_ids).tobytes()
    return blake2b(parent + ids, digest_size=KEY_BYTES).digest()


class KeyChain:
    """Keys of the full blocks of a sequence that grows. Computed once each."""

    def __init__(self, root: bytes, token_ids: Sequence[int], block_tokens: int) -> None:
        self._root = root
        self._token_ids = token_ids
        self._block_tokens = block_tokens
        self._keys: list[bytes] = []

    @property
    def full_blocks(self) -> int:
        return len(self._token_ids) // self._block_tokens

    def key(self, block: int) -> bytes:
        """Raises `IndexError` where the block is not full."""
        if block >= self.full_blocks:
            raise IndexError(f"block {block} is not full")
        while len(self._keys) <= block:
            first = len(self._keys) * self._block_tokens
            ids = self._token_ids[first : first + self._block_tokens]
            self._keys.append(next_key(self._keys[-1] if self._keys else self._root, ids))
        return self._keys[block]
