"""The seed of an answer that goes on where an engine's random state cannot be set. Pure."""

from hashlib import blake2b


def continued_seed(seed: int, position: int) -> int:
    """Of the call that draws the tokens from `position` of the answer on: 32 bits, which every
    engine takes. The first seed again would draw again what was drawn at the beginning."""
    digest = blake2b(b"%d:%d" % (seed, position), digest_size=4).digest()
    return int.from_bytes(digest, "big")
