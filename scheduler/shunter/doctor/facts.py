"""What is known of an installation, as values. What could not be read says why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Object = Mapping[str, Any]
Part = Literal["scheduler", "operator"]
PARTS: tuple[Part, ...] = ("scheduler", "operator")
CONFIGURATIONS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


@dataclass(frozen=True, slots=True)
class Unread:
    """A fact that is not known, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Silent(Unread):
    """It was asked, and did not answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """The API server. `ahead_s`: its clock against this machine's, known to `within_s`; None where
    it does not tell the time."""

    address: str
    version: tuple[int, int]
    text: str  # as the server names its version
    ahead_s: float | None
    within_s: float


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """`seen_at` by the API server's clock; None where it does not tell the time."""

    holder: str
    renewed_at: datetime | None
    duration_s: float
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that a process must be allowed to do. `namespace` empty: in every namespace.
    Without what is `optional` it does less, and says so."""

    part: Part
    group: str
    resource: str  # with the subresource: pods/status
    verb: str
    namespace: str
    name: str = ""
    optional: bool = False

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {what}" + (f"/{self.name}" if self.name else "")


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one process: what it needs, and what of it is refused."""

    needed: int
    refused: tuple[Right, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the release is. `wide`: it works for every namespace. `webhooks`: the name of its
    webhook configurations; empty: it has none."""

    namespace: str
    wide: bool
    webhooks: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP answer."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class SchedulerPages:
    """Of one scheduler pod."""

    health: Page | Unread
    metrics: Page | Unread


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    name: str
    pool: str
    address: str
    state: str


@dataclass(frozen=True, slots=True)
class PoolFacts:
    name: str
    ready: int


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """By gRPC: health of the server and of the service, and what the leader says."""

    address: str
    alive: bool
    leads: bool
    term: int = 0
    gateways: int = 0
    config_error: str = ""
    pools: tuple[PoolFacts, ...] = ()
    instances: tuple[InstanceFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an engine is to serve. `declared`: its type's adapter talks to it in token ids."""

    engine_type: str
    declared: bool
    source: str
    name: str
    context_length: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What one engine answers. `model` None: nobody says what it is to serve."""

    name: str
    pool: str
    model: ModelFacts | None
    health: Page | Unread
    models: Page | Unread
    metrics: Page | Unread
    token_ids: tuple[int, ...] | Unread


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Of the processes themselves, wherever they run. `tokenizers`: of each model source, what it
    makes of the probe text; `unasked` engines were too many."""

    gateway: Page | Unread
    scheduler: SchedulerFacts | Unread
    engines: tuple[EngineFacts, ...] | Unread = ()
    unasked: int = 0
    tokenizers: Mapping[str, tuple[int, ...] | Unread] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Of the cluster that the processes run in; objects as the API server shows them."""

    place: Place
    version: str  # of this command
    server: Server
    definitions: Mapping[str, Object | None] | Unread  # by name; None: not there
    rights: Mapping[Part, Rights | Unread]
    nodes: tuple[Object, ...] | Unread
    adds_nodes: str  # what does, as far as can be seen; empty: nothing
    pools: tuple[Object, ...] | Unread
    runtime_classes: frozenset[str] | Unread
    deployments: Mapping[str, Object] | Unread
    leases: Mapping[Part, LeaseFacts | Unread]
    schedulers: Mapping[str, SchedulerPages] | Unread  # by pod
    webhooks: tuple[Object, ...] | Unread
    trial: str | Unread  # of a pool that is not kept; empty: the server takes it


@dataclass(frozen=True, slots=True)
class Facts:
    """`cluster` None: one machine."""

    service: ServiceFacts
    cluster: ClusterFacts | None = None
