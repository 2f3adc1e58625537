"""The source: requests that are offered to other engines, and their blocks on the way out.

Nothing is copied of requests that nobody asked for. Of an offered one each step's orders name the
full blocks that the workers copy into the folder, `Export` sends them on, and decoding goes on. An
offer stops nothing: vLLM cannot freeze one request, so the gateway ends the call when it switches.
"""

import math
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shunter_proto.v1 import moves_pb2 as pb
from shunter_vllm.chunks import block_chunks
from shunter_vllm.folder import BlockDamaged
from shunter_vllm.keys import KeyChain, root_key
from shunter_vllm.leases import Held, Store, granted_s
from shunter_vllm.ports import BlockTable, Copy, Request, computed_tokens, plain

SIDE = "out"
TOKEN_BYTES = 32
HEARTBEAT_S = 1.0  # a stage ends as often, with new blocks or without: leases go by chunks
COPIED_S = 5.0  # for the workers to write a block that was ordered
_POLL_S = 0.002  # workers tell nobody that a file is there
_WAIT_S = 0.25
_SUFFIX = re.compile(r"(?:-[0-9a-f]{8})?")  # vLLM's, against ids that come twice


@dataclass(slots=True)
class _Offer(Held):
    request: Request | None = None  # None: it has ended
    chain: KeyChain | None = None
    token: bytes = b""
    exported: bool = False  # the token is good for one
    source_tokens: int = 0


class Offers:
    def __init__(self, store: Store, blocks_per_step: int) -> None:
        self._store = store
        self._blocks_per_step = blocks_per_step
        self._requests: dict[str, Request] = {}
        self._offers: dict[str, _Offer] = {}

    # ------------------------------------------------------------ the engine's thread

    def began(self, request: Request) -> None:
        with self._store.changed:
            self._requests[request.request_id] = request

    def ended(self, request_id: str) -> None:
        with self._store.changed:
            self._requests.pop(request_id, None)
            for offer in self._offers.values():
                if offer.request is not None and offer.request.request_id == request_id:
                    offer.request = None
            self._store.changed.notify_all()

    def orders(self, table: BlockTable) -> list[Copy]:
        """What the workers are to copy at the end of this step; earlier steps have computed it."""
        if not self._offers:
            return []
        copies: list[Copy] = []
        with self._store.changed:
            for offer in self._offers.values():
                self._order(offer, table, copies)
            self._store.changed.notify_all()
        return copies

    def _order(self, offer: _Offer, table: BlockTable, copies: list[Copy]) -> None:
        request, chain = offer.request, offer.chain
        if request is None or chain is None:
            return
        blocks = table(request.request_id)
        if blocks is None:  # preempted, or not in this step
            return
        offer.source_tokens = computed_tokens(request)
        full = min(offer.source_tokens // self._store.facts.block_tokens, len(blocks))
        while len(offer.keys) < full and len(copies) < self._blocks_per_step:
            block = len(offer.keys)
            key = chain.key(block)
            if not self._store.hold(SIDE, offer, key):
                return
            if not self._store.ledger.is_ready(key):
                copies.append(Copy(key, blocks[block]))

    # ------------------------------------------------------------ the server's threads

    def offer(self, asked: pb.OfferRequest) -> pb.OfferReply:
        store = self._store
        with store.changed:
            known = self._offers.get(asked.move_id)
            if known is not None:
                store.renew(known)
                return self._reply(known)
            request = self._find(asked.call_id)
            if request is None:
                return pb.OfferReply(refusal=pb.REFUSAL_UNKNOWN)
            if not plain(request) or not request.num_output_tokens:
                return pb.OfferReply(refusal=pb.REFUSAL_NOT_DECODING)
            root = root_key(store.facts.word(), request.cache_salt or "")
            lasts_s = granted_s(asked.lease_ms)
            offer = _Offer(
                asked.move_id,
                lasts_s,
                store.clock() + lasts_s,
                request=request,
                chain=KeyChain(root, request.all_token_ids, store.facts.block_tokens),
                token=secrets.token_bytes(TOKEN_BYTES),
                source_tokens=computed_tokens(request),
            )
            if not store.take(SIDE, offer):
                return pb.OfferReply(refusal=pb.REFUSAL_BUSY)
            self._offers[asked.move_id] = offer
            return self._reply(offer)

    def _reply(self, offer: _Offer) -> pb.OfferReply:
        return pb.OfferReply(
            manifest=self._store.facts.manifest(),
            tokens=offer.request.num_tokens if offer.request is not None else 0,
            transfer_token=offer.token,
            lease_ms=offer.lease_ms,
        )

    def _find(self, call_id: str) -> Request | None:
        """vLLM makes `cmpl-ID-0` of the id in a body, and appends eight digits to it."""
        prefix = f"cmpl-{call_id}-0"
        for request_id, request in self._requests.items():
            if request_id.startswith(prefix) and _SUFFIX.fullmatch(request_id, len(prefix)):
                return request
        return None

    def release(self, move_id: str) -> bool:
        """Forgets it; the request goes on. False: no such offer."""
        with self._store.changed:
            self._offers.pop(move_id, None)
            return self._store.drop(SIDE, move_id)

    def state(self, move_id: str) -> bool:
        with self._store.changed:
            return move_id in self._offers

    def end_leases(self) -> None:
        with self._store.changed:
            for move_id in self._store.overdue(SIDE):
                self.release(move_id)

    # ------------------------------------------------------------ Export

    def export(
        self, asked: pb.ExportRequest, is_active: Callable[[], bool]
    ) -> Iterator[pb.KvChunk]:
        """Blocks as they come to be, and a stage's end whenever all have gone out, until the caller
        hangs up, the offer ends or a block cannot be had."""
        offer = self._admitted(asked)
        if offer is None:
            yield pb.KvChunk(refusal=pb.REFUSAL_TOKEN)
            return
        block_tokens = self._store.facts.block_tokens
        sent, stage, told_at = asked.from_token // block_tokens, 0, -math.inf
        while is_active():
            keys, source_tokens, ended = self._look(offer, sent, wait=stage > 0)
            for key in keys:
                if not self._is_written(key, is_active):
                    yield pb.KvChunk(refusal=pb.REFUSAL_TRANSFER)
                    return
                try:
                    for chunk in block_chunks(self._store, key, sent * block_tokens):
                        yield chunk
                        self._store.renew(offer)
                except (OSError, BlockDamaged):
                    yield pb.KvChunk(refusal=pb.REFUSAL_TRANSFER)
                    return
                sent += 1
            if ended:
                yield pb.KvChunk(refusal=ended)
                return
            if keys or self._store.clock() >= told_at + HEARTBEAT_S:
                self._store.renew(offer)
                told_at = self._store.clock()
                stage += 1
                end = pb.StageEnd(stage=stage, source_tokens=source_tokens)
                yield pb.KvChunk(first_token=sent * block_tokens, stage_end=end)

    def _admitted(self, asked: pb.ExportRequest) -> _Offer | None:
        with self._store.changed:
            offer = self._offers.get(asked.move_id)
            if offer is None or offer.exported:
                return None
            if not secrets.compare_digest(offer.token, asked.transfer_token):
                return None
            if asked.from_token % self._store.facts.block_tokens:
                return None
            offer.exported = True
            return offer

    def _look(
        self, offer: _Offer, sent: int, wait: bool
    ) -> "tuple[list[bytes], int, pb.Refusal.ValueType]":
        """Keys that were ordered since; how far the source is; why no more come."""
        block_tokens = self._store.facts.block_tokens
        with self._store.changed:
            if wait and len(offer.keys) <= sent:
                self._store.changed.wait(_WAIT_S)
            elif not wait and offer.request is not None:  # the first stage is all there is now
                full = computed_tokens(offer.request) // block_tokens
                self._store.changed.wait_for(
                    lambda: len(offer.keys) >= full or offer.request is None, _WAIT_S
                )
            ended = pb.REFUSAL_NONE
            if self._offers.get(offer.move_id) is not offer:
                ended = pb.REFUSAL_UNKNOWN
            elif offer.request is None:
                ended = pb.REFUSAL_FINISHED
            return offer.keys[sent:], offer.source_tokens, ended

    def _is_written(self, key: bytes, is_active: Callable[[], bool]) -> bool:
        """Waits for every worker's part."""
        store = self._store
        until = store.clock() + COPIED_S
        with store.changed:
            while is_active() and store.clock() < until:
                if all(store.folder.has(key, r) for r in range(store.facts.tensor_parallel)):
                    return True
                store.changed.wait(_POLL_S)
        return False
