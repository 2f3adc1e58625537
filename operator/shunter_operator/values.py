"""What is wanted, what is there, and what is to be done: values, without any I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.status import PoolStatus, StartingPhase
from shunter_operator.names import PoolKey, Ref
from shunter_operator.scheduler_view import SchedulerView

Manifest = dict[str, Any]
# Counts below what a profile has, smallest first, and since when no more has been advised.
Enough = tuple[tuple[int, datetime], ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """What every pool of an operator has in common."""

    image: str  # of engines that come with Shunter: simulated, numpy
    engine_images: Mapping[str, str] = field(default_factory=dict)  # by engine type
    image_pull_policy: str = "IfNotPresent"
    priority_classes: Mapping[str, str] = field(default_factory=dict)  # low, standard, high
    pdb_api_version: str = "policy/v1"
    deletion_cost: bool = True  # Kubernetes 1.22 or later
    unhealthy_eviction: bool = True  # policy/v1 of Kubernetes 1.27 or later
    watches_nodes: bool = False  # we may, and so hear of nodes that are about to go
    endpoint: str = ""  # the gateway's URL in the cluster


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A profile may have at most `limit` pods while the pool `by` (namespace/name) needs its GPUs.

    `taken`: replicas go for it; else the profile only may not grow. When the last replica was
    taken, `placed` pods of that pool had a node, and `others` of all pools but the two; at
    `freed_at` the profile had come down to the limit.
    """

    limit: int
    by: str
    priority: int  # of that pool
    lacks: str  # what it is told about its pods
    placed: int = 0
    others: int = 0
    freed_at: datetime | None = None
    taken: bool = True

    @property
    def detail(self) -> str:
        return f"pool {self.by} of priority {self.priority} needs its GPUs: {self.lacks}"


@dataclass(frozen=True, slots=True)
class Desired:
    """A pool as its owner wrote it. `reclaims`: what its profiles give up for other pools."""

    pool: ModelPool
    uid: str
    generation: int = 1
    deleted_at: datetime | None = None
    conflict: tuple[str, str] | None = None  # reason and message why this pool may not serve
    policy: str | None = None  # the RoutingPolicy in force
    namespace_ends: bool = False  # it is deleted with everything in it
    reclaims: Mapping[str, Reclaim] = field(default_factory=dict)  # by profile

    @property
    def key(self) -> PoolKey:
        return PoolKey(self.pool.metadata.namespace, self.pool.name)


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container last ended. `message` holds the last lines of its log."""

    reason: str
    exit_code: int
    message: str
    ran_s: float


@dataclass(frozen=True, slots=True)
class Startup:
    """An engine that is not ready `budget_s` after its start is told to stop, and is gone at most
    `grace_s` later."""

    budget_s: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class Pod:
    """An engine's pod."""

    name: str
    namespace: str
    pool: str
    profile: str
    uid: str = ""
    created_at: datetime | None = None
    deleting: bool = False
    scheduled: bool = True
    unschedulable_since: datetime | None = None
    unschedulable_message: str = ""
    ready_since: datetime | None = None  # None: not ready
    waiting_reason: str = ""
    waiting_message: str = ""
    terminated: Termination | None = None
    restarts: int = 0
    drain_since: datetime | None = None
    drained: bool = False  # its deletion cost says so
    drain_reason: str = ""
    leave_since: datetime | None = None  # its node has been about to go since
    busy: bool = False  # the disruption budget holds its evictions
    role: str = ""  # as its label tells people
    node: str = ""
    template: str = ""  # digest of the pod template that it was made of
    gated: bool | None = None  # None: no readiness gate; else whether it is in service
    startup: Startup | None = None  # None: nobody stops an engine that starts slowly
    stage: StartingPhase = "Loading"  # while it is not ready
    stage_since: datetime | None = None
    fetch_ended: Termination | None = None  # of the container that fetches weights

    @property
    def ready(self) -> bool:
        return self.ready_since is not None

    @property
    def ref(self) -> Ref:
        return Ref("Pod", self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that engines run on."""

    name: str
    cordoned: bool = False
    notice: str = ""  # the taint that announces its end

    @property
    def leaving(self) -> bool:
        return self.cordoned or bool(self.notice)


@dataclass(frozen=True, slots=True)
class Why:
    """Why a pod goes: one word for the condition, and a clause for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the cluster and the scheduler have of one pool.

    `objects` are ours, as the API server shows them; `scheduler` None means that it does not
    answer; `enough_since` says since when fewer instances of a profile have been enough, and
    `status_set_at` when this process last wrote the status. `nodes` are those that are about to go.
    """

    objects: Mapping[Ref, Manifest] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    scheduler: SchedulerView | None = None
    status: PoolStatus = field(default_factory=PoolStatus)
    finalizers: tuple[str, ...] = ()
    enough_since: Mapping[str, Enough] = field(default_factory=dict)  # by profile
    status_set_at: datetime | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Apply:
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Delete:
    ref: Ref


@dataclass(frozen=True, slots=True)
class Drain:
    """No new work for the instance; what runs there is moved. It does not wait for the end."""

    instance: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Undrain:
    instance: str


@dataclass(frozen=True, slots=True)
class MarkVictim:
    """The pod is about to go: being emptied since `drain_since`."""

    pod: Ref
    drain_since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class MarkDrained:
    """The pod is empty: it is the one that a smaller Deployment deletes."""

    pod: Ref


@dataclass(frozen=True, slots=True)
class Unmark:
    pod: Ref


@dataclass(frozen=True, slots=True)
class MarkLeaving:
    """The pod's node is about to go; the pod still serves, until there is a replacement."""

    pod: Ref
    leave_since: datetime


@dataclass(frozen=True, slots=True)
class SetBusy:
    """The label by which the disruption budget holds evictions of the pod."""

    pod: Ref
    busy: bool


@dataclass(frozen=True, slots=True)
class SetRole:
    """The label that tells people a pod's role; empty: none. A change restarts nothing."""

    pod: Ref
    role: str


@dataclass(frozen=True, slots=True)
class SetInService:
    """The readiness gate, where a cluster does not know deletion costs."""

    pod: Ref
    in_service: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the pool."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    present: bool


@dataclass(frozen=True, slots=True)
class SetStatus:
    status: PoolStatus


Action = (
    Apply
    | Delete
    | Drain
    | Undrain
    | MarkVictim
    | MarkDrained
    | Unmark
    | MarkLeaving
    | SetBusy
    | SetInService
    | SetRole
    | Event
    | SetFinalizer
    | SetStatus
)
