"""What exists: pools, their policies and the instances that serve them."""

from dataclasses import dataclass

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine process (on a cluster: one pod). What has begun to answer moves only between
    instances of one `revision` of the model."""

    name: str
    pool: str
    profile: str
    address: str  # host:port
    engine_type: str
    revision: str = ""
    kv_transport: str = ""  # and layout; KV blocks are copied where both sides have the same


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole configuration. `version` grows with each change; `leaving` names instances that are
    there but about to end: nothing new goes there, what runs there is moved. `starting` says of
    pools that have pods, but no instance yet, how far they are: scaling-up, starting,
    loading-weights, unschedulable."""

    version: int
    pools: tuple[ModelPool, ...]
    policies: tuple[RoutingPolicy, ...]
    instances: tuple[Instance, ...]
    leaving: tuple[str, ...] = ()
    starting: tuple[tuple[str, str], ...] = ()  # pool and phase
