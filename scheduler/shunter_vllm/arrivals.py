"""The destination: fetches blocks of requests that are to come, and finds them when they do.

What has arrived is a tier of the prefix cache: any request whose tokens begin so loads it, and
computes only what is missing. Nothing is reserved in vLLM's own KV cache.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shunter_proto.v1 import moves_pb2 as pb
from shunter_vllm.chunks import BlockAssembly
from shunter_vllm.keys import KEY_BYTES, KeyChain, root_key
from shunter_vllm.leases import Held, Store, granted_s
from shunter_vllm.ports import Request, plain

SIDE = "in"
LEASE_BYTES = 24


class SourceLost(Exception):
    """The source cannot be reached, or has gone in mid-transfer."""


Fetch = Callable[[str, pb.ExportRequest], Iterator[pb.KvChunk]]
"""`Export` of the engine at this address. Raises `SourceLost`."""


@dataclass(slots=True)
class _Arrival(Held):
    kv_lease: str = ""
    cached_tokens: int = 0
    pulled: bool = False


class Arrivals:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = root_key(store.facts.word(), "")
        self._arrivals: dict[str, _Arrival] = {}

    # ------------------------------------------------------------ the engine's thread

    def matched_tokens(self, request: Request) -> int:
        """How many of its first tokens have arrived, in full blocks, and at least one less than
        there are: vLLM has to compute something."""
        store = self._store
        if store.ledger.empty or not plain(request):
            return 0
        block_tokens = store.facts.block_tokens
        most = (request.num_tokens - 1) // block_tokens
        chain = self._chain(request)
        with store.changed:
            blocks = 0
            while blocks < most and store.ledger.is_ready(chain.key(blocks)):
                blocks += 1
        return blocks * block_tokens

    def keys(self, request: Request, first_block: int, end_block: int) -> list[bytes]:
        chain = self._chain(request)
        return [chain.key(block) for block in range(first_block, end_block)]

    def _chain(self, request: Request) -> KeyChain:
        salt = request.cache_salt
        root = root_key(self._store.facts.word(), salt) if salt else self._root
        return KeyChain(root, request.all_token_ids, self._store.facts.block_tokens)

    # ------------------------------------------------------------ the server's threads

    def prepare(self, asked: pb.PrepareRequest) -> pb.PrepareReply:
        store = self._store
        if asked.manifest != store.facts.manifest():
            return pb.PrepareReply(refusal=pb.REFUSAL_LAYOUT)
        with store.changed:
            known = self._arrivals.get(asked.move_id)
            if known is not None:
                store.renew(known)
                return _reply(known)
            tokens = len(asked.token_ids) + asked.headroom_tokens
            if tokens // store.facts.block_tokens > store.ledger.free_blocks:
                return pb.PrepareReply(refusal=pb.REFUSAL_NO_MEMORY)
            lasts_s = granted_s(asked.lease_ms)
            arrival = _Arrival(
                asked.move_id,
                lasts_s,
                store.clock() + lasts_s,
                kv_lease=secrets.token_urlsafe(LEASE_BYTES),
            )
            if not store.take(SIDE, arrival):
                return pb.PrepareReply(refusal=pb.REFUSAL_BUSY)
            self._arrivals[asked.move_id] = arrival
            arrival.cached_tokens = self._keep_known(arrival, asked.token_ids)
            return _reply(arrival)

    def _keep_known(self, arrival: _Arrival, token_ids: Sequence[int]) -> int:
        """Holds what another move has brought of it. In tokens."""
        store = self._store
        chain = KeyChain(self._root, token_ids, store.facts.block_tokens)
        blocks = 0
        while blocks < chain.full_blocks and store.ledger.is_ready(chain.key(blocks)):
            store.hold(SIDE, arrival, chain.key(blocks))
            blocks += 1
        return blocks * store.facts.block_tokens

    def release(self, move_id: str) -> bool:
        """False: no such move."""
        with self._store.changed:
            self._arrivals.pop(move_id, None)
            return self._store.drop(SIDE, move_id)

    def state(self, move_id: str) -> bool:
        with self._store.changed:
            return move_id in self._arrivals

    def end_leases(self) -> None:
        with self._store.changed:
            for move_id in self._store.overdue(SIDE):
                self.release(move_id)

    # ------------------------------------------------------------ Pull

    def pull(
        self, asked: pb.PullRequest, fetch: Fetch, is_active: Callable[[], bool]
    ) -> Iterator[pb.PullReport]:
        """Fetches until the caller hangs up or the source sends no more."""
        arrival = self._admitted(asked)
        if arrival is None:
            yield pb.PullReport(refusal=pb.REFUSAL_TOKEN)
            return
        export = pb.ExportRequest(
            move_id=asked.move_id,
            transfer_token=asked.transfer_token,
            from_token=arrival.cached_tokens,
        )
        try:
            yield from self._receive(arrival, fetch(asked.source_address, export), is_active)
        except SourceLost:
            yield pb.PullReport(refusal=pb.REFUSAL_TRANSFER)

    def _receive(
        self, arrival: _Arrival, chunks: Iterator[pb.KvChunk], is_active: Callable[[], bool]
    ) -> Iterator[pb.PullReport]:
        facts, fetched = self._store.facts, 0
        block = BlockAssembly(facts, arrival.cached_tokens)
        for chunk in chunks:
            if not is_active():
                return
            if chunk.refusal:
                yield pb.PullReport(refusal=chunk.refusal)
                return
            self._store.renew(arrival)
            if chunk.HasField("stage_end"):
                end = chunk.stage_end
                yield pb.PullReport(
                    stage=end.stage,
                    tokens=block.first_token,
                    source_tokens=end.source_tokens,
                    bytes=fetched,
                )
                continue
            if not block.take(chunk) or len(chunk.block_key) != KEY_BYTES:
                yield pb.PullReport(refusal=pb.REFUSAL_TRANSFER)
                return
            fetched += len(chunk.data)
            if block.complete:
                if not self._keep(arrival, block):
                    yield pb.PullReport(refusal=pb.REFUSAL_NO_MEMORY)
                    return
                block = BlockAssembly(facts, block.first_token + facts.block_tokens)

    def _admitted(self, asked: pb.PullRequest) -> _Arrival | None:
        with self._store.changed:
            arrival = self._arrivals.get(asked.move_id)
            if arrival is None or arrival.pulled:
                return None
            if not secrets.compare_digest(arrival.kv_lease, asked.kv_lease):
                return None
            arrival.pulled = True
            return arrival

    def _keep(self, arrival: _Arrival, block: BlockAssembly) -> bool:
        """False: no room in the store, none on its disk, or the move has ended."""
        store = self._store
        with store.changed:
            if self._arrivals.get(arrival.move_id) is not arrival:
                return False
            if not store.hold(SIDE, arrival, block.key):
                return False
            if store.ledger.is_ready(block.key):
                return True
        try:
            for rank, parts in enumerate(block.parts):
                store.folder.write(block.key, rank, parts)
        except OSError:
            return False
        with store.changed:
            if store.ledger.set_ready(block.key):
                return True
            store.folder.remove(block.key, store.facts.tensor_parallel)
            return False


def _reply(arrival: _Arrival) -> pb.PrepareReply:
    return pb.PrepareReply(
        kv_lease=arrival.kv_lease,
        lease_ms=arrival.lease_ms,
        cached_tokens=arrival.cached_tokens,
    )
