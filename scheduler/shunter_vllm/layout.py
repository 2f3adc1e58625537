"""What has to be equal in two vLLM engines that exchange blocks. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import blake2b

from shunter_proto.v1 import moves_pb2 as pb

STATE_VERSION = 1001  # of what travels: vLLM's blocks as they lie in memory, layer by layer
_WORD_CHARS = 12  # of a digest: tells layouts apart, authenticates nothing


class UnknownLayout(Exception):
    """The KV cache's tensors are not one block after the other in each layer."""


def kernel_blocks(rows: int, num_blocks: int) -> int:
    """How many rows of a tensor one of vLLM's block ids stands for: attention kernels may want
    smaller blocks than vLLM's scheduler deals out. Raises `UnknownLayout`."""
    if num_blocks < 1 or rows < num_blocks or rows % num_blocks:
        raise UnknownLayout(f"a tensor of {rows} rows for {num_blocks} blocks")
    return rows // num_blocks


@dataclass(frozen=True, slots=True)
class WorkerCache:
    """A worker's KV cache, as it tells its scheduler."""

    form: str = ""  # device, attention in use, and the shape that it gives a layer's block
    block_bytes: int = 0
    problem: str = ""  # why no block can be copied


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Of vLLM's configuration, and of the KV cache that its workers have made."""

    revision: str  # digests of weights and of the configuration in effect
    tokenizer_digest: str
    vllm_version: str  # what a block has in it may change with each
    dtype: str  # of the KV cache
    block_tokens: int
    layers: int
    kv_heads: int  # of one worker
    head_dim: int
    tensor_parallel: int = 1
    cache_form: str = ""  # as workers found it
    block_bytes: int = 0  # of one worker
    unsupported: str = ""  # why nothing moves by KV; empty: it does

    def manifest(self) -> pb.Manifest:
        return pb.Manifest(
            revision=f"{self.revision} vllm-{self.vllm_version} {self.cache_form}",
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
        identity = self.manifest().SerializeToString(deterministic=True)
        digest = blake2b(identity, digest_size=_WORD_CHARS // 2).hexdigest()
        return (
            f"vllm-{self.vllm_version}-{self.dtype}-b{self.block_tokens}-l{self.layers}"
            f"-h{self.kv_heads}-d{self.head_dim}-tp{self.tensor_parallel}-{digest}"
        )


def with_caches(facts: EngineFacts, caches: Collection[WorkerCache]) -> EngineFacts:
    """Facts with what the workers have; raises `UnknownLayout` where their blocks do not fit."""
    problems = [cache.problem for cache in caches if cache.problem]
    if problems:
        raise UnknownLayout(problems[0])
    if len(caches) != facts.tensor_parallel or len(set(caches)) != 1:
        raise UnknownLayout(f"{facts.tensor_parallel} workers with {len(set(caches))} KV caches")
    (cache,) = set(caches)
    return replace(facts, cache_form=cache.form, block_bytes=cache.block_bytes)
