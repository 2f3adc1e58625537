"""The configuration as the service needs it: addresses, drained instances, the wire's Topology."""

from collections.abc import Callable

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.service.errors import NotFound
from shunter_scheduler.service.replies import NO_KV_MOVES, KvMoves, Seen, Speed, to_topology

EMPTY = Topology(version=0, pools=(), policies=(), instances=())


class ClusterView:
    """What the service goes by, and what gateways are sent of it."""

    def __init__(
        self, block_tokens: int, speeds_of: Callable[[Topology], dict[str, Speed]]
    ) -> None:
        self.topology = EMPTY
        self.addresses: dict[str, str] = {}
        self.config_error = ""
        self._draining: frozenset[str] = frozenset()
        self._block_tokens = block_tokens
        self._speeds_of = speeds_of
        self._speeds: dict[str, Speed] = {}
        self._kv_moves: dict[str, KvMoves] = {}
        self._message: pb.Topology | None = None

    @property
    def message(self) -> pb.Topology:
        """What gateways are sent; made when it is asked for after a change."""
        if self._message is None:
            seen = Seen(self._draining, self._speeds, self._kv_moves)
            self._message = to_topology(self.topology, seen, self._block_tokens)
        return self._message

    @property
    def draining(self) -> frozenset[str]:
        """Instances that a `Drain` call empties."""
        return self._draining

    @property
    def leaving(self) -> frozenset[str]:
        """Instances that are about to end, and that nothing empties yet."""
        return frozenset(self.topology.leaving) - self._draining

    @property
    def ready(self) -> bool:
        """A configuration was read."""
        return self.topology is not EMPTY

    def change(self, topology: Topology) -> None:
        same = frozenset(self.topology.instances) & frozenset(topology.instances)
        self.topology = topology
        self.config_error = ""
        self.addresses = {one.name: one.address for one in topology.instances}
        stay = {one.name for one in same}
        self._draining &= stay
        self._kv_moves = {name: how for name, how in self._kv_moves.items() if name in stay}
        self._speeds = self._speeds_of(topology)
        self._message = None

    def set_draining(self, instance: str, draining: bool) -> None:
        self._draining = self._draining | {instance} if draining else self._draining - {instance}
        self._message = None

    def set_kv_moves(self, instance: str, kv_moves: KvMoves) -> bool:
        """Whether that is news."""
        if instance not in self.addresses:
            return False
        if self._kv_moves.get(instance, NO_KV_MOVES) == kv_moves:
            return False
        self._kv_moves[instance] = kv_moves
        self._message = None
        return True

    def drain_timeout_s(self, instance: str) -> float:
        """That of the instance's pool. Raises `NotFound` for an unknown instance."""
        for one in self.topology.instances:
            if one.name == instance:
                pools = {pool.name: pool for pool in self.topology.pools}
                return pools[one.pool].migration.drain_timeout_s
        known = ", ".join(sorted(self.addresses)[:10]) or "none"
        raise NotFound(f"no instance {instance!r}; known: {known}")
