"""A scenario: pools, engines, policy, load and faults of one simulated run."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shunter_api.base import SERVICE_NAME, DnsLabel, Duration, Int, Resource, check_unique
from shunter_api.engine import Engine
from shunter_api.modelpool import ModelPool, ModelPoolSpec, PoolMetadata
from shunter_api.routingpolicy import RoutingPolicySpec
from shunter_scheduler.core import CoreSettings
from shunter_simulator.scenarios.autoscaling import Autoscaling
from shunter_simulator.scenarios.engines import EngineSettings
from shunter_simulator.scenarios.faults import Fault
from shunter_simulator.scenarios.moves import MoveSettings
from shunter_simulator.scenarios.values import Delay, ObserveEvery
from shunter_simulator.workloads.spec import WorkloadSpec

MAX_INSTANCES = 100_000
CORE = CoreSettings()  # what is not said is as in production
Count = Annotated[Int, Field(ge=0, le=MAX_INSTANCES)]


class ScenarioPool(ModelPoolSpec):
    """The spec of a ModelPool and its name. The engine may be left out, and `model` may be no more
    than the name of a model's shape."""

    name: Annotated[str, Field(pattern=SERVICE_NAME, max_length=63)]
    """The pool's name; what requests ask for unless the model has a name of its own."""

    engine: Engine = Engine(type="simulated")
    """The server that generates tokens; only its type counts here."""

    @field_validator("model", mode="before")
    @classmethod
    def _shape_by_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return {"source": value if "://" in value else f"sim://{value}"}

    @property
    def resource(self) -> ModelPool:
        fields = {name: getattr(self, name) for name in ModelPoolSpec.model_fields}
        spec = ModelPoolSpec.model_construct(**fields)
        return ModelPool.model_construct(metadata=PoolMetadata(name=self.name), spec=spec)


def scenario_pool(pool: ModelPool) -> ScenarioPool:
    """A pool that came from a file of its own."""
    fields = {name: getattr(pool.spec, name) for name in ModelPoolSpec.model_fields}
    return ScenarioPool.model_construct(**fields, name=pool.name)


class Network(Resource):
    """Delays between the processes, each way."""

    scheduler_s: Annotated[Delay, Field(alias="scheduler")] = 0.0003
    """Between gateway and scheduler."""

    engine_s: Annotated[Delay, Field(alias="engine")] = 0.0003
    """Between gateway and engine."""

    detection_s: Annotated[Delay, Field(alias="detection")] = 0.1
    """From the death of an engine until the gateway and the scheduler know."""


class Rejected(Resource):
    """What clients do who are turned away."""

    retries: Annotated[Int, Field(ge=0, le=100)] = 0
    """How often one comes again, each time after the wait that it was told. After that its request
    counts as failed."""


class SchedulerKnobs(Resource):
    """What can be set about the scheduler beside policies."""

    count_sent: bool = CORE.count_sent
    """Policies that go by engines' own numbers (llumnix, queue-kv-prefix) add what was sent since
    the last look."""

    priority_headroom: bool = CORE.head_room.for_priorities
    """A class keeps lower ones from slowing it beyond its TPOT target."""

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of workload-balanced; absent: tuned while it runs."""

    max_requests: Annotated[Int, Field(ge=1, le=1_000_000)] = CORE.head_room.max_requests
    """At once on one instance; more wait at the scheduler."""

    max_queue_s: Annotated[Duration, Field(alias="maxQueue")] = CORE.head_room.max_queue_s
    """Of prompts ahead on one instance; more wait at the scheduler."""

    money_s_per_dollar: Annotated[float, Field(ge=0, le=1e9)] = CORE.money_s_per_dollar
    """Seconds of latency that a dollar is worth, of predicted-cost."""


class Scenario(Resource):
    """One simulated run."""

    name: DnsLabel = "scenario"
    """What tables and plots are headed with."""

    seed: Annotated[Int, Field(ge=0, le=2**32 - 1)] = 0
    """Of the load, of what policies draw, and of the instances that faults hit."""

    resources: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = ()
    """Files with ModelPools and at most one RoutingPolicy, as kubectl takes them, relative to this
    one. Profiles get `replicas.min` instances unless `instances` says otherwise."""

    pools: Annotated[tuple[ScenarioPool, ...], Field(max_length=1000)] = ()
    """Pools beside those of `resources`."""

    policy: RoutingPolicySpec = RoutingPolicySpec()
    """Classes, rules, tenants, dispatch and admission; absent: that of `resources`, if any."""

    instances: dict[DnsLabel, dict[DnsLabel, Count]] = Field(default_factory=dict)
    """How many instances of each profile of each pool there are; absent: `replicas.min` of the
    profile."""

    engines: dict[DnsLabel, dict[DnsLabel, EngineSettings]] = Field(default_factory=dict)
    """How the engines of each profile of each pool behave."""

    workload: WorkloadSpec
    """What is asked."""

    queue_in: Literal["scheduler", "engines"] = "scheduler"
    """Where requests wait that find no room. engines: every request goes to an engine at once, as
    with routers that have no queue."""

    scheduler: SchedulerKnobs = SchedulerKnobs()
    """What can be set about the scheduler beside policies."""

    moves: MoveSettings = MoveSettings()
    """Which requests move while they run, and how."""

    faults: Annotated[tuple[Fault, ...], Field(max_length=10_000)] = ()
    """What goes wrong."""

    autoscaling: Autoscaling | None = None
    """Instances come and go while it runs; absent: all are there all the time."""

    network: Network = Network()
    """Delays between the processes."""

    rejected: Rejected = Rejected()
    """What clients do who are turned away."""

    observe_every: ObserveEvery = 0.05
    """How often the scheduler looks at the engines; step: it always knows the state at the start of
    the step that an engine is in."""

    progress_every_s: Annotated[Duration, Field(alias="progressEvery")] = 0.5
    """How often the gateway reports how far answers are."""

    warmup_s: Annotated[Delay, Field(alias="warmup")] = 0.0
    """Requests that arrive before are served, and left out of the figures."""

    sample_every_s: Annotated[Duration, Field(alias="sampleEvery")] = 1.0
    """How often the load of instances is noted, at first: of long runs less often."""

    @model_validator(mode="after")
    def _unique_pools(self) -> Self:
        check_unique("pools", (pool.name for pool in self.pools))
        return self

    @property
    def model_pools(self) -> tuple[ModelPool, ...]:
        return tuple(pool.resource for pool in self.pools)

    def instances_of(self, pool: ModelPool) -> Iterator[tuple[str, str]]:
        """Profile and name of each instance of a pool."""
        counts = self.instances.get(pool.name, {})
        for profile in pool.profiles:
            count = counts.get(profile.name, profile.replicas.min)
            for number in range(count):
                yield profile.name, f"{pool.name}-{profile.name}-{number}"
