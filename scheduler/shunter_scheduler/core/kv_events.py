"""What engines say of their prefix caches corrects the prefix index of a pool.

A dispatch assumes that the engine will hold the whole prompt. Where the engine publishes events,
`CONFIRM_S` after the first token only that much of the assumption stays as the engine confirmed,
by its events or by the cached tokens that it reported with the first token.
"""

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from shunter_scheduler.core.kv_chains import KvChains
from shunter_scheduler.core.prefix import PrefixIndex
from shunter_scheduler.core.prefix_bytes import HASH_BYTES, common_bytes
from shunter_text.blocks import chain_root

if TYPE_CHECKING:
    from shunter_scheduler.core.instance import InstanceRecord
    from shunter_scheduler.core.state import CoreState
    from shunter_scheduler.domain.events import KvBlocksRemoved, KvBlocksStored, KvCleared
    from shunter_scheduler.domain.request import Request

CONFIRM_S = 2.0  # as the endpoint pickers' speculative entries live (llm-d's precise prefix cache)
MAX_ROOTS = 16  # tenants whose prefixes are followed; of others only what was dispatched is known
MAX_ASSUMED = 4096  # dispatches whose first token is awaited, per pool
DEFAULT_TENANT = "default"  # of requests that bring no key


class _Assumed(Struct, eq=False, gc=False):
    """A prompt that an engine was sent: `kept` of its blocks are confirmed."""

    slot: int
    root: int  # index in the roots
    hashes: bytes
    kept: int = 0
    due_at: float = 0.0


class KvFollower:
    """Of one pool. Exists from the first event that an engine of the pool published."""

    def __init__(self, prefix: PrefixIndex, revision: str, index_tokens: int) -> None:
        self._prefix = prefix
        self._revision = revision
        self._index_tokens = index_tokens
        self._roots: list[int] = []
        self._tenants: dict[str, int] = {}
        self._chains: dict[int, KvChains] = {}
        self._mapped: dict[int, set[int]] = {}  # per slot the roots of chains that it confirmed
        self._awaited: dict[str, _Assumed] = {}  # by request, in the order of their dispatch
        self._assumed: dict[int, dict[bytes, list[_Assumed]]] = {}  # by slot and first block
        self._due: deque[_Assumed] = deque()
        self.root_of(DEFAULT_TENANT)

    def root_of(self, tenant: str) -> int | None:
        """Index of a tenant's root; None where there are too many tenants."""
        known = self._tenants.get(tenant)
        if known is None and len(self._roots) < MAX_ROOTS:
            known = self._tenants[tenant] = len(self._roots)
            self._roots.append(chain_root(self._revision, "", tenant))
        return known

    def stored(self, record: "InstanceRecord", event: "KvBlocksStored", now: float) -> None:
        """Raises `ValueError` for an event that does not add up."""
        if event.block_tokens < 1 or len(event.hashes) * event.block_tokens > len(event.token_ids):
            raise ValueError(
                f"{len(event.hashes)} KV blocks of {event.block_tokens} tokens from "
                f"{event.instance}, but {len(event.token_ids)} tokens"
            )
        self.expire(now)
        slot = record.slot
        chains = self._chains.get(slot)
        if chains is None:
            chains = self._chains[slot] = KvChains(self._roots, self._index_tokens)
        # What is gone but still links others may take as much again.
        chains.max_blocks = 2 * (record.kv_capacity_tokens // event.block_tokens) + 1
        changed = chains.store(event.hashes, event.parent, event.token_ids, event.block_tokens)
        for end in changed:
            self._hold(slot, chains.paths(end))
        if chains.full:  # events went missing: begin anew
            self.clear(record)

    def removed(self, record: "InstanceRecord", event: "KvBlocksRemoved", now: float) -> None:
        self.expire(now)
        chains = self._chains.get(record.slot)
        if chains is None:
            return
        for block_hash in event.hashes:
            for path in chains.remove(block_hash):
                self._prefix.cut(record.slot, path)

    def clear(self, record: "InstanceRecord") -> None:
        """The instance holds nothing that is known of."""
        self.forget(record.slot)
        self._prefix.clear(record.slot)
        self._prefix.open(record.slot, record.kv_capacity_tokens // self._index_tokens)

    def forget(self, slot: int) -> None:
        """A slot's engine is gone, or begins anew."""
        self._chains.pop(slot, None)
        self._mapped.pop(slot, None)
        self._assumed.pop(slot, None)
        self._awaited = {one: it for one, it in self._awaited.items() if it.slot != slot}
        self._due = deque(it for it in self._due if it.slot != slot)

    def dispatched(self, slot: int, request: "Request", now: float) -> None:
        """Hashes of bytes, where there is no tokenizer, are never confirmed: they stay assumed."""
        self.expire(now)
        request_id, hashes = request.request_id, request.block_hashes
        root = self.root_of(request.tenant)
        if root is None or not hashes or not request.prompt_tokens_exact:
            return
        if request_id in self._awaited:
            self._settled(self._awaited.pop(request_id))
        assumed = self._awaited[request_id] = _Assumed(slot, root, hashes)
        self._assumed.setdefault(slot, {}).setdefault(hashes[:HASH_BYTES], []).append(assumed)
        if len(self._awaited) > MAX_ASSUMED:
            self._settled(self._awaited.pop(next(iter(self._awaited))))

    def first_token(self, request_id: str, cached_tokens: int, now: float) -> None:
        assumed = self._awaited.pop(request_id, None)
        if assumed is None:
            return
        assumed.kept = max(assumed.kept, cached_tokens // self._index_tokens)
        assumed.due_at = now + CONFIRM_S
        self._due.append(assumed)

    def expire(self, now: float) -> None:
        """Takes back what was assumed and not confirmed in time."""
        while self._due and self._due[0].due_at <= now:
            assumed = self._due.popleft()
            self._settled(assumed)
            end = (assumed.kept + 1) * HASH_BYTES
            if end <= len(assumed.hashes) and assumed.root in self._mapped.get(assumed.slot, ()):
                self._prefix.cut(assumed.slot, assumed.hashes[:end])

    def _settled(self, assumed: _Assumed) -> None:
        by_first = self._assumed.get(assumed.slot, {})
        first = assumed.hashes[:HASH_BYTES]
        alike = by_first.get(first, [])
        if assumed in alike:
            alike.remove(assumed)
        if not alike:
            by_first.pop(first, None)

    def _hold(self, slot: int, paths: list[bytes]) -> None:
        """The same chain under each root. It is noted for tenants who have sent its beginning;
        where nobody is known to have, for the default one."""
        wanted = [i for i, path in enumerate(paths) if self._prefix.knows(path[:HASH_BYTES])]
        for i in wanted or (range(1) if paths else ()):
            path = paths[i]
            self._mapped.setdefault(slot, set()).add(i)
            self._prefix.insert(slot, path, self._prefix.match(path), grow=True)
            for assumed in self._assumed.get(slot, {}).get(path[:HASH_BYTES], ()):
                common = common_bytes(path, assumed.hashes, 0) // HASH_BYTES
                assumed.kept = max(assumed.kept, common)


def kv_stored(state: "CoreState", event: "KvBlocksStored", now: float) -> None:
    found = _follower(state, event.instance)
    if found is not None:
        found[0].stored(found[1], event, now)


def kv_removed(state: "CoreState", event: "KvBlocksRemoved", now: float) -> None:
    found = _follower(state, event.instance)
    if found is not None:
        found[0].removed(found[1], event, now)


def kv_cleared(state: "CoreState", event: "KvCleared", now: float) -> None:
    found = _follower(state, event.instance)
    if found is not None:
        found[0].clear(found[1])


def _follower(state: "CoreState", instance: str) -> "tuple[KvFollower, InstanceRecord] | None":
    record = state.instances.get(instance)
    if record is None:
        return None
    pool = state.pools[record.value.pool]
    if pool.kv is None:
        pool.kv = KvFollower(pool.prefix, pool.spec.revision, pool.settings.block_tokens)
        for tenant in state.tenants:
            pool.kv.root_of(tenant)
    return pool.kv, record
