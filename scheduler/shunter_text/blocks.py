"""Chained hashes of token blocks: the keys of the prefix index.

A block's hash covers the block and, through the seed, everything before it, so that equal hashes
mean equal prefixes. Gateways compute them and send them to the scheduler as one packed field.
"""

import sys
from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

BLOCK_TOKENS = 64
_TOKEN_BYTES = 4


def block_hashes(token_ids: Sequence[int], root: int, block_tokens: int = BLOCK_TOKENS) -> bytes:
    """Packed little-endian uint64, one for each full block of `token_ids`; the rest is left out.
    The ids may be the bytes of a text that nothing tokenises.

    Every block is hashed as little-endian uint32 ids by XXH3-64 (https://xxhash.com), seeded by
    the block before it, the first one by `root` (see `chain_root`). Raises `OverflowError` for an
    id outside uint32 and `ValueError` for a block size below 1.
    """
    if block_tokens < 1:
        raise ValueError(f"block_tokens must be at least 1, not {block_tokens}")
    # An array would take bytes for its own memory, four to an item.
    packed = array("I", list(token_ids) if isinstance(token_ids, bytes) else token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    data = packed.tobytes()
    step = block_tokens * _TOKEN_BYTES
    digest = root
    hashes = array("Q")
    for start in range(0, len(data) - step + 1, step):
        digest = xxh3_64_intdigest(data[start : start + step], digest)
        hashes.append(digest)
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes.tobytes()


def chain_root(revision: str, adapter: str = "", tenant_salt: str = "") -> int:
    """The seed of a chain: prefixes are shared inside one (revision, adapter, salt) only.

    A secret salt per tenant keeps tenants from probing each other's prefixes; XXH3 is no
    cryptographic hash, so the keys are hints for routing and never proof of equality.
    """
    parts = (part.encode() for part in (revision, adapter, tenant_salt))
    return xxh3_64_intdigest(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
