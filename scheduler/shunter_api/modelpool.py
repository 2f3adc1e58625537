"""`ModelPool`: one model, the GPUs that may serve it in order of preference, and its SLO."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shunter_api.base import (
    API_VERSION,
    SERVICE_NAME,
    ApiVersion,
    Int,
    Metadata,
    Resource,
    check_unique,
)
from shunter_api.cel import Rule, cel, unique_names
from shunter_api.engine import SOURCE_RULES, Engine, EngineType, check_source
from shunter_api.model import Model
from shunter_api.placement import PodTemplate
from shunter_api.profile import Profile
from shunter_api.roles import ROLE_RULES, check_roles
from shunter_api.running import Migration, Slo
from shunter_api.scaling import MIN_ABOVE_ZERO, Scaling, floor_rule

_REPLICAS_IN_AUTO = (
    "replicas is decided by the scheduler; set scaling.mode to Manual to give it, "
    "or bound it with profiles[].replicas"
)
# The sum of replicas.max in CEL; a max that is absent is min, at least 1.
_MOST_REPLICAS = (
    "self.profiles.map(p, !has(p.replicas) ? 1 : has(p.replicas.max) ? p.replicas.max : "
    "has(p.replicas.min) && p.replicas.min > 1 ? p.replicas.min : 1).sum()"
)


class ModelPoolSpec(Resource):
    """One model, the GPUs that may serve it in order of preference, and its SLO."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            *SOURCE_RULES,
            *ROLE_RULES,
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
        check_source(self.model, self.engine.type)
        return self

    @model_validator(mode="after")
    def _roles_work_together(self) -> Self:
        check_roles([p.role for p in self.profiles], self.engine.type, self.migration.mode)
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
