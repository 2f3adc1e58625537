"""`ModelPool`: one model, the GPUs that may serve it in order of preference, and its SLO."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shunter_api.accelerators import (
    ACCELERATORS,
    ALIASES,
    Accelerator,
    UnknownAccelerator,
    accelerator,
)
from shunter_api.base import (
    API_VERSION,
    SERVICE_NAME,
    ApiVersion,
    DecimalText,
    DnsLabel,
    Int,
    Metadata,
    Resource,
    check_unique,
)
from shunter_api.cel import Rule, cel, unique_names
from shunter_api.model import Model
from shunter_api.placement import Labels, PodTemplate, Resources, Toleration
from shunter_api.running import Migration, Replicas, Slo
from shunter_api.scaling import MIN_ABOVE_ZERO, Scaling, floor_rule
from shunter_api.weights import names_file

EngineType = Literal["vllm", "llamacpp", "simulated", "numpy", "openai"]

# Which sources an engine type can load.
SOURCE_SCHEMES: dict[EngineType, tuple[str, ...]] = {
    "vllm": ("hf", "s3", "oci", "pvc", "file"),
    "llamacpp": ("hf", "s3", "oci", "pvc", "pypi", "file"),
    "simulated": ("sim",),
    "numpy": ("hf", "s3", "oci", "pvc", "pypi", "file"),
    "openai": ("hf", "s3", "oci", "pvc", "file", "pypi", "sim"),
}
# These read one GGUF file; what a `file://` is called is the owner's business.
_GGUF_ENGINES: tuple[EngineType, ...] = ("llamacpp", "numpy")
_NAMES_GGUF = "engine types llamacpp and numpy load one file: end model.source in its /NAME.gguf"


def _schemes(engine: EngineType) -> str:
    *others, last = (f"{scheme}://" for scheme in SOURCE_SCHEMES[engine])
    return f"{', '.join(others)} or {last}" if others else last


def _source_rule(engine: EngineType) -> Rule:
    schemes = "|".join(SOURCE_SCHEMES[engine])
    return Rule(
        f"self.engine.type != '{engine}' || self.model.source.matches('^({schemes})://')",
        f"engine type {engine} loads a model from {_schemes(engine)}; change model.source",
    )


class EnvVar(Resource):
    """A variable of the engine's environment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
    """The variable's name."""

    value: Annotated[str, Field(max_length=32_768)] = ""
    """The variable's value."""


class EngineFile(Resource):
    """A file that the engine reads at its start."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][-._A-Za-z0-9]*$", max_length=128)]
    """The file's name."""

    content: Annotated[str, Field(max_length=32_768)]
    """What it holds. No secrets: everyone who may read pools may read it."""


class Engine(Resource):
    """The server that generates tokens."""

    type: EngineType
    """vllm, llamacpp, simulated or numpy; openai is any server with OpenAI's HTTP API."""

    image: Annotated[str, Field(pattern=r"^\S+$", max_length=512)] | None = None
    """The container image; absent: the operator's default for the type. Only a cluster reads it."""

    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Added to the engine's command line."""

    env: Annotated[
        tuple[EnvVar, ...],
        Field(max_length=128, json_schema_extra=unique_names("variables")),
    ] = ()
    """Added to the engine's environment."""

    files: Annotated[
        tuple[EngineFile, ...],
        Field(max_length=8, json_schema_extra=unique_names("files")),
    ] = ()
    """Files such as a chat template or an engine's configuration, found in /etc/shunter/files for
    `args` to name. A change starts new instances. Only a cluster reads them."""

    port: Annotated[Int, Field(ge=1, le=65_535)] | None = None
    """Where the engine listens. On a cluster absent means 8000. Under `shunter up` the pool's
    n-th instance listens on this port + n, and absent means any free port."""

    @field_validator("env")
    @classmethod
    def _unique_variables(cls, env: tuple[EnvVar, ...]) -> tuple[EnvVar, ...]:
        check_unique("variables", (variable.name for variable in env))
        return env

    @field_validator("files")
    @classmethod
    def _unique_files(cls, files: tuple[EngineFile, ...]) -> tuple[EngineFile, ...]:
        check_unique("files", (file.name for file in files))
        return files


class Profile(Resource):
    """One way to serve the model: an accelerator, how many of it, and what it costs."""

    name: DnsLabel
    """The profile's name, unique in its pool."""

    accelerator: Annotated[
        str, Field(max_length=63, json_schema_extra={"enum": [*ACCELERATORS, *ALIASES]})
    ]
    """A key of the accelerator catalogue, or its short name."""

    tensor_parallel: Annotated[Int, Field(ge=1, le=64)] = 1
    """How many accelerators one instance spreads the model over."""

    replicas: Replicas = Replicas()
    """How many instances it may have."""

    cost_per_hour: Annotated[
        DecimalText,
        Field(
            ge=0,
            le=100_000,
            json_schema_extra=cel(Rule("double(self) <= 100000.0", "must be at most 100000")),
        ),
    ] = Decimal("0")
    """What one instance costs in an hour, in any one currency, in quotes."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels of the nodes that have this accelerator. Only a cluster reads it."""

    resources: Resources = Resources()
    """What one instance asks of its node; absent: for vllm `tensorParallel` times nvidia.com/gpu,
    for simulated and numpy a little CPU and memory. Only a cluster reads it."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints of nodes that the pods may run on all the same. Only a cluster reads it."""

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


_REPLICAS_IN_AUTO = (
    "replicas is decided by the scheduler; set scaling.mode to Manual to give it, "
    "or bound it with profiles[].replicas"
)
_SCHEMES = len({scheme for loads in SOURCE_SCHEMES.values() for scheme in loads})
# The sum of replicas.max in CEL; a max that is absent is min, at least 1.
_MOST_REPLICAS = (
    "self.profiles.map(p, !has(p.replicas) ? 1 : has(p.replicas.max) ? p.replicas.max : "
    "has(p.replicas.min) && p.replicas.min > 1 ? p.replicas.min : 1).sum()"
)


class ModelPoolSpec(Resource):
    """One model, the GPUs that may serve it in order of preference, and its SLO."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            *(_source_rule(e) for e, loads in SOURCE_SCHEMES.items() if len(loads) < _SCHEMES),
            Rule(
                f"!(self.engine.type in {list(_GGUF_ENGINES)}) || "
                "self.model.source.startsWith('file://') || self.model.source.endsWith('.gguf')",
                _NAMES_GGUF,
            ),
            Rule("!has(self.replicas) || self.scaling.mode == 'Manual'", _REPLICAS_IN_AUTO),
            Rule(
                f"!has(self.replicas) || self.replicas <= {_MOST_REPLICAS}",
                "replicas is more than the profiles' replicas.max add up to; "
                "give fewer or raise a max",
            ),
            MIN_ABOVE_ZERO,
            floor_rule(_MOST_REPLICAS),
        )
    )

    model: Model
    """What is served."""

    engine: Engine
    """What serves it."""

    profiles: Annotated[
        tuple[Profile, ...],
        Field(min_length=1, max_length=32, json_schema_extra=unique_names("profiles")),
    ]
    """The ways to serve it, in order of preference."""

    scaling: Scaling = Scaling()
    """How the number of instances is decided. Only a cluster reads it."""

    replicas: Annotated[Int, Field(ge=0, le=32_000)] | None = None
    """Instances in total, filled in the order of the profiles; `kubectl scale` writes it. Only with
    scaling.mode Manual; absent: every profile's `replicas.min`. Only a cluster reads it."""

    slo: Slo = Slo()
    """What clients may expect."""

    migration: Migration = Migration()
    """How running requests may move."""

    pod_template: PodTemplate = PodTemplate()
    """Overrides of the engine pods. Only a cluster reads it."""

    @field_validator("profiles")
    @classmethod
    def _unique_profiles(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        check_unique("profiles", (profile.name for profile in profiles))
        return profiles

    @model_validator(mode="after")
    def _source_suits_engine(self) -> Self:
        schemes = SOURCE_SCHEMES[self.engine.type]
        if self.model.source_scheme not in schemes:
            raise ValueError(
                f"engine type {self.engine.type} loads a model from {_schemes(self.engine.type)}, "
                f"not from {self.model.source_scheme}://"
            )
        gguf = names_file(self.model.source) or self.model.source_scheme == "file"
        if self.engine.type in _GGUF_ENGINES and not gguf:
            raise ValueError(_NAMES_GGUF)
        return self

    @field_validator("scaling")
    @classmethod
    def _scaling_suits_profiles(cls, scaling: Scaling, others: ValidationInfo) -> Scaling:
        profiles = others.data.get("profiles")
        return scaling.check([p.replicas for p in profiles]) if profiles else scaling

    @field_validator("replicas")
    @classmethod
    def _replicas_can_be_had(cls, replicas: int | None, others: ValidationInfo) -> int | None:
        scaling, profiles = others.data.get("scaling"), others.data.get("profiles")
        if replicas is None or scaling is None or profiles is None:  # these have their own errors
            return replicas
        if scaling.mode != "Manual":
            raise ValueError(_REPLICAS_IN_AUTO)
        most = sum(profile.replicas.max for profile in profiles)
        if replicas > most:
            raise ValueError(
                f"replicas is {replicas}, and the profiles' replicas.max add up to {most}; "
                "give fewer or raise a max"
            )
        return replicas


class PoolMetadata(Metadata):
    """A pool's name is also the name of its Service."""

    name: Annotated[str, Field(pattern=SERVICE_NAME, max_length=63)]


class ModelPool(Resource):
    """Properties repeat what callers need most, so that they need not know the nesting."""

    api_version: ApiVersion = API_VERSION
    kind: Literal["ModelPool"] = "ModelPool"
    metadata: PoolMetadata
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
    def tokenizer_source(self) -> str:
        return self.spec.model.tokenizer or self.spec.model.source

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
