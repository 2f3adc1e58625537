"""`ModelPool`: one model, the GPUs that may serve it in order of preference, and its SLO."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shunter_api.accelerators import Accelerator, UnknownAccelerator, accelerator
from shunter_api.base import (
    API_VERSION,
    MODEL_SOURCE,
    ApiVersion,
    DecimalText,
    DnsLabel,
    DnsName,
    Duration,
    Int,
    Metadata,
    ModelName,
    Resource,
)
from shunter_api.placement import Labels, PodTemplate, Resources, Toleration

EngineType = Literal["vllm", "llamacpp", "simulated", "numpy", "openai"]
MigrationMode = Literal["Auto", "Replay", "Off"]
ScalingMode = Literal["Auto", "Manual"]

# Which sources an engine type can load.
SOURCE_SCHEMES: dict[EngineType, tuple[str, ...]] = {
    "vllm": ("hf", "file"),
    "llamacpp": ("pypi", "file"),
    "simulated": ("sim",),
    "numpy": ("pypi", "file"),
    "openai": ("hf", "file", "pypi", "sim"),
}


class SecretRef(Resource):
    """A Secret in the namespace of the pool."""

    name: DnsName
    """The Secret's name."""

    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = "token"
    """The key in the Secret that holds the value."""


class Cache(Resource):
    """Where weights are kept between starts."""

    pvc: DnsName
    """The PersistentVolumeClaim, in the pool's namespace, that every engine pod mounts."""


class Model(Resource):
    """What is served, and under which names."""

    source: Annotated[str, Field(pattern=MODEL_SOURCE, max_length=1024)]
    """Where the weights come from: `sim://`, `hf://`, `pypi://` or `file://` and a path."""

    name: ModelName | None = None
    """What clients send as `model`; absent: the pool's name."""

    aliases: Annotated[tuple[ModelName, ...], Field(max_length=64)] = ()
    """Further names that clients may send; a name leads to one pool only."""

    context_length: Annotated[Int, Field(ge=64, le=16_777_216)] = 8192
    """The most tokens, prompt and answer together, of one request."""

    credentials_secret_ref: SecretRef | None = None
    """A Secret with the token that downloads `hf://` weights; engines get it as HF_TOKEN.
    Only a cluster reads it."""

    cache: Cache | None = None
    """Keeps downloaded weights on a volume, so that a new pod does not download them again.
    Only a cluster reads it."""

    @property
    def source_scheme(self) -> str:
        return self.source.partition("://")[0]


class EnvVar(Resource):
    """A variable of the engine's environment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
    """The variable's name."""

    value: Annotated[str, Field(max_length=32_768)] = ""
    """The variable's value."""


class Engine(Resource):
    """The server that generates tokens."""

    type: EngineType
    """vllm, llamacpp, simulated or numpy; openai is any server with OpenAI's HTTP API."""

    image: Annotated[str, Field(pattern=r"^\S+$", max_length=512)] | None = None
    """The container image; absent: the operator's default for the type. Only a cluster reads it."""

    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Added to the engine's command line."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=256)] = ()
    """Added to the engine's environment."""

    port: Annotated[Int, Field(ge=1, le=65_535)] | None = None
    """Where the engine listens. On a cluster absent means 8000. Under `shunter up` the pool's
    n-th instance listens on this port + n, and absent means any free port."""


class Replicas(Resource):
    """How many instances a profile may have."""

    min: Annotated[Int, Field(ge=0, le=1000)] = 1
    """The fewest."""

    max: Annotated[Int, Field(ge=0, le=1000)] = 1
    """The most; absent: as many as `min`, at least 1."""

    @model_validator(mode="before")
    @classmethod
    def _max_follows_min(cls, value: object) -> object:
        if isinstance(value, dict) and "max" not in value and isinstance(value.get("min"), int):
            return {**value, "max": max(1, value["min"])}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


class Profile(Resource):
    """One way to serve the model: an accelerator, how many of it, and what it costs."""

    name: DnsLabel
    """The profile's name, unique in its pool."""

    accelerator: Annotated[str, Field(max_length=63)]
    """A key of the accelerator catalogue, or its short name."""

    tensor_parallel: Annotated[Int, Field(ge=1, le=64)] = 1
    """How many accelerators one instance spreads the model over."""

    replicas: Replicas = Replicas()
    """How many instances it may have."""

    cost_per_hour: Annotated[DecimalText, Field(ge=0, le=100_000)] = Decimal("0")
    """What one instance costs in an hour, in any one currency, in quotes."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels of the nodes that have this accelerator. Only a cluster reads it."""

    resources: Resources = Resources()
    """What one instance asks of its node. Only a cluster reads it."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints of nodes that the pods may run on all the same. Only a cluster reads it."""

    spot: bool = Field(default=False, strict=True)
    """Whether the nodes may be taken away at short notice. Only a cluster reads it."""

    @field_validator("accelerator")
    @classmethod
    def _known_accelerator(cls, key: str) -> str:
        try:
            return accelerator(key).key
        except UnknownAccelerator as error:
            raise ValueError(str(error)) from error

    @property
    def hardware(self) -> Accelerator:
        """One of the `tensor_parallel` accelerators of an instance."""
        return accelerator(self.accelerator)


class Scaling(Resource):
    """Who decides how many instances run, and how soon profiles spill and return."""

    mode: ScalingMode = "Auto"
    """Auto: the scheduler's advice, within each profile's bounds. Manual: `spec.replicas`."""

    spill_after_s: Annotated[Duration, Field(alias="spillAfter")] = 60.0
    """A profile whose pods no node takes for this long is helped out by the next profile."""

    return_after_s: Annotated[Duration, Field(alias="returnAfter")] = 120.0
    """Once a preferred profile has been ready again for this long, requests move back to it."""

    scale_down_after_s: Annotated[Duration, Field(alias="scaleDownAfter")] = 300.0
    """An instance goes only after fewer have been enough for this long."""


class Slo(Resource):
    """Targets for a request: time to first token, time per token, and the share that meets both."""

    ttft_s: Annotated[Duration | None, Field(alias="ttft")] = None
    """Time to the first token; absent: no target."""

    tpot_s: Annotated[Duration | None, Field(alias="tpot")] = None
    """Time per token after the first; absent: no target."""

    attainment: Annotated[DecimalText, Field(gt=0, lt=1)] = Decimal("0.99")
    """The share of requests that must meet the targets for the pool to have SLOMet, in quotes.
    Only a cluster reads it."""


class Migration(Resource):
    """Which moves of running requests are allowed, and within which limits."""

    mode: MigrationMode = "Auto"
    """Auto takes the best rung that both engines can do; Replay only replays; "Off" never moves."""

    drain_timeout_s: Annotated[Duration, Field(alias="drainTimeout")] = 120.0
    """How long a drain may take before what still runs is ended."""

    max_concurrent_per_instance: Annotated[Int, Field(ge=1, le=256)] = 2
    """How many moves an instance takes part in at a time."""

    max_retries: Annotated[Int, Field(ge=0, le=10)] = 3
    """How many engine failures a request outlives."""


class ModelPoolSpec(Resource):
    """One model, the GPUs that may serve it in order of preference, and its SLO."""

    model: Model
    """What is served."""

    engine: Engine
    """What serves it."""

    profiles: Annotated[tuple[Profile, ...], Field(min_length=1, max_length=32)]
    """The ways to serve it, in order of preference."""

    replicas: Annotated[Int, Field(ge=0, le=32_000)] | None = None
    """Instances in total, filled in the order of the profiles; `kubectl scale` writes it. Only with
    scaling.mode Manual; absent: every profile's `replicas.min`. Only a cluster reads it."""

    scaling: Scaling = Scaling()
    """How the number of instances is decided. Only a cluster reads it."""

    slo: Slo = Slo()
    """What clients may expect."""

    migration: Migration = Migration()
    """How running requests may move."""

    pod_template: PodTemplate = PodTemplate()
    """Overrides of the engine pods. Only a cluster reads it."""

    @field_validator("profiles")
    @classmethod
    def _unique_profiles(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        names = [profile.name for profile in profiles]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two profiles are called {name!r}; give each a name of its own")
        return profiles

    @model_validator(mode="after")
    def _source_suits_engine(self) -> Self:
        schemes = SOURCE_SCHEMES[self.engine.type]
        if self.model.source_scheme not in schemes:
            accepted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(
                f"engine type {self.engine.type} loads a model from {accepted}, "
                f"not from {self.model.source_scheme}://"
            )
        return self

    @model_validator(mode="after")
    def _replicas_can_be_had(self) -> Self:
        if self.replicas is None:
            return self
        if self.scaling.mode != "Manual":
            raise ValueError(
                "replicas is decided by the scheduler; set scaling.mode to Manual to give it, "
                "or bound it with profiles[].replicas"
            )
        most = sum(profile.replicas.max for profile in self.profiles)
        if self.replicas > most:
            raise ValueError(
                f"replicas is {self.replicas}, and the profiles' replicas.max add up to {most}; "
                "give fewer or raise a max"
            )
        return self


class ModelPool(Resource):
    """Properties repeat what callers need most, so that they need not know the nesting."""

    api_version: ApiVersion = API_VERSION
    kind: Literal["ModelPool"] = "ModelPool"
    metadata: Metadata
    spec: ModelPoolSpec

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def model_names(self) -> tuple[str, ...]:
        """What clients may send as `model`: the model's name first, then its aliases."""
        model = self.spec.model
        first = model.name or self.name
        return (first, *(alias for alias in model.aliases if alias != first))

    @property
    def revision(self) -> str:
        """Requests may move between instances of one revision. Here: the model's source."""
        return self.spec.model.source

    @property
    def context_length(self) -> int:
        return self.spec.model.context_length

    @property
    def engine_type(self) -> EngineType:
        return self.spec.engine.type

    @property
    def profiles(self) -> tuple[Profile, ...]:
        return self.spec.profiles

    @property
    def slo(self) -> Slo:
        return self.spec.slo

    @property
    def migration(self) -> Migration:
        return self.spec.migration

    def profile(self, name: str) -> Profile:
        """Raises KeyError where the pool has no such profile."""
        for profile in self.spec.profiles:
            if profile.name == name:
                return profile
        raise KeyError(name)
