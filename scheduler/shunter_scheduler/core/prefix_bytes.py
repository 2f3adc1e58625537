"""Packed block hashes and bit sets, compared without a loop over them."""

from collections.abc import Iterator

HASH_BYTES = 8


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def common_bytes(edge: bytes, hashes: bytes, at: int) -> int:
    """Length of the common prefix of `edge` and `hashes[at:]`, in whole hashes: up to the lowest
    bit in which the two, as little-endian numbers, differ."""
    size = min(len(edge), len(hashes) - at)
    differing = int.from_bytes(edge[:size], "little") ^ int.from_bytes(
        hashes[at : at + size], "little"
    )
    if not differing:
        return size
    first_bit = (differing & -differing).bit_length() - 1
    return first_bit // (8 * HASH_BYTES) * HASH_BYTES
