"""Stand-ins for what vLLM brings: requests, block tables and a worker's KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import shake_128
from pathlib import Path

from shunter_vllm.arrivals import Arrivals
from shunter_vllm.folder import BlockFolder
from shunter_vllm.layout import EngineFacts
from shunter_vllm.leases import Store
from shunter_vllm.ledger import BlockLedger
from shunter_vllm.offers import Offers
from shunter_vllm.scheduler_side import SchedulerSide, StepCopies
from shunter_vllm.worker_side import WorkerSide

LAYER_BYTES = 64
FACTS = EngineFacts(
    revision="weights",
    tokenizer_digest="tokenizer",
    vllm_version="0.0",
    dtype="float32",
    block_tokens=4,
    layers=3,
    kv_heads=2,
    head_dim=8,
    cache_form="cpu",
    block_bytes=3 * LAYER_BYTES,
)


@dataclass(slots=True)
class FakeRequest:
    request_id: str
    all_token_ids: list[int]
    num_output_tokens: int = 1
    num_computed_tokens: int = 0
    num_output_placeholders: int = 0
    cache_salt: str | None = None
    lora_request: object | None = None
    mm_features: Sequence[object] = ()
    prompt_embeds: object | None = None
    pooling_params: object | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)


@dataclass(slots=True)
class FakeCache:
    """A `KvCache` whose blocks follow from the tokens before their end, as a model's do."""

    layers: int
    block_bytes: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    full: bool = False  # what it is asked for fails

    def read(self, block_ids: Sequence[int]) -> list[list[bytes]]:
        if self.full:
            raise OSError("no space left on device")
        return [self._layers(self.blocks[block]) for block in block_ids]

    def _layers(self, data: bytes) -> list[bytes]:
        size = self.block_bytes // self.layers
        return [data[i * size : (i + 1) * size] for i in range(self.layers)]

    def write(self, block_ids: Sequence[int], payloads: Sequence[memoryview]) -> None:
        for block, payload in zip(block_ids, payloads, strict=True):
            assert len(payload) == self.block_bytes
            self.blocks[block] = bytes(payload)


def computed(token_ids: Sequence[int], rank: int, block_bytes: int) -> bytes:
    """What a worker has in a block that ends with these tokens."""
    return shake_128(repr((list(token_ids), rank)).encode()).digest(block_bytes)


class FakeEngine:
    """An engine of `workers`, stepped by hand. Requests have the blocks 100, 101, ... and on."""

    def __init__(
        self,
        folder: Path,
        facts: EngineFacts = FACTS,
        limit_blocks: int = 64,
        blocks_per_step: int = 64,
        max_moves: int = 4,
    ) -> None:
        self.now = 0.0
        self.facts = facts
        self.folder = BlockFolder(folder)
        self.folder.make()
        self.ledger = BlockLedger(limit_blocks)
        self.store = Store(facts, self.folder, self.ledger, lambda: self.now, max_moves)
        self.offers = Offers(self.store, blocks_per_step)
        self.arrivals = Arrivals(self.store)
        self.scheduler = SchedulerSide(self.offers, self.arrivals, facts.block_tokens)
        self.caches = [
            FakeCache(facts.layers, facts.block_bytes) for _ in range(facts.tensor_parallel)
        ]
        self.workers = [WorkerSide(self.folder, rank) for rank in range(facts.tensor_parallel)]
        for worker, cache in zip(self.workers, self.caches, strict=True):
            worker.use(cache)
        self._tables: dict[str, list[int]] = {}

    def run(self, request: FakeRequest) -> None:
        """It has been computed but for its last token."""
        self.scheduler.began(request)
        request.num_computed_tokens = request.num_tokens - 1
        self._allocate(request)
        self._compute(request, range(request.num_computed_tokens // self.facts.block_tokens))

    def decode(self, request: FakeRequest, token_id: int) -> None:
        request.all_token_ids.append(token_id)
        request.num_output_tokens += 1
        self.run(request)
        self.step()

    def step(self) -> StepCopies:
        copies = self.scheduler.step(self._tables.get)
        for worker in self.workers:
            worker.load(copies.loads)
            worker.save(copies.saves)
        return copies

    def admit(self, request: FakeRequest, cached_tokens: int = 0) -> int:
        """A new request comes, as vLLM's scheduler takes it. How many tokens are loaded for it;
        less those that a worker could not."""
        self.scheduler.began(request)
        tokens = self.scheduler.new_tokens(request, cached_tokens)
        self._allocate(request)
        self.scheduler.allocated(request, tokens)
        self.step()
        table = self._tables[request.request_id]
        failed = {block for worker in self.workers for block in worker.take_failed_blocks()}
        good = next((i for i, block in enumerate(table) if block in failed), len(table))
        return min(tokens, max(0, good * self.facts.block_tokens - cached_tokens))

    def has(self, request: FakeRequest, tokens: int) -> bool:
        """Whether its first tokens have the KV that computing them would have given."""
        size = self.facts.block_tokens
        return all(
            cache.blocks.get(self._tables[request.request_id][block])
            == computed(request.all_token_ids[: (block + 1) * size], rank, self.facts.block_bytes)
            for rank, cache in enumerate(self.caches)
            for block in range(tokens // size)
        )

    def _allocate(self, request: FakeRequest) -> None:
        table = self._tables.setdefault(request.request_id, [])
        while len(table) * self.facts.block_tokens < request.num_tokens:
            table.append(100 + sum(map(len, self._tables.values())))

    def _compute(self, request: FakeRequest, blocks: range) -> None:
        table = self._tables[request.request_id]
        for block in blocks:
            ids = request.all_token_ids[: (block + 1) * self.facts.block_tokens]
            for rank, cache in enumerate(self.caches):
                cache.blocks[table[block]] = computed(ids, rank, self.facts.block_bytes)


def with_workers(workers: int) -> EngineFacts:
    return replace(FACTS, tensor_parallel=workers)
