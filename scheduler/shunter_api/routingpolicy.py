"""`RoutingPolicy`: SLO classes, routing rules, dispatch policy and admission limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shunter_api.base import (
    API_VERSION,
    ApiVersion,
    DnsLabel,
    Duration,
    Int,
    Metadata,
    ModelName,
    Resource,
)

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=128)]


class SloClass(Resource):
    """A class of requests. Higher `priority` goes first; targets that are absent do not count."""

    name: DnsLabel
    priority: Annotated[Int, Field(ge=0, le=1_000_000)]
    ttft_s: Annotated[Duration | None, Field(alias="ttft")] = None
    tpot_s: Annotated[Duration | None, Field(alias="tpot")] = None
    deadline_s: Annotated[Duration | None, Field(alias="deadline")] = None


class PromptTokens(Resource):
    over: Annotated[Int, Field(ge=0, le=16_777_216)]


class When(Resource):
    """All that is given must hold; of `models` and of `tenants` any one."""

    models: Annotated[tuple[ModelName, ...], Field(max_length=256)] = ()
    headers: Annotated[
        dict[HeaderName, Annotated[str, Field(max_length=1024)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    tenants: Annotated[
        tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=256)
    ] = ()
    prompt_tokens: PromptTokens | None = None

    @field_validator("headers")
    @classmethod
    def _lower_case(cls, headers: dict[str, str]) -> dict[str, str]:
        return {name.lower(): value for name, value in headers.items()}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (self.models or self.headers or self.tenants or self.prompt_tokens):
            raise ValueError(
                "says nothing; give models, headers, tenants or promptTokens, "
                "or leave `when` out to match every request"
            )
        return self


class WeightedPool(Resource):
    pool: DnsLabel
    weight: Annotated[Int, Field(ge=0, le=1_000_000)] = 1


class Rule(Resource):
    """Without `route` the pool that has the request's model name serves it."""

    name: DnsLabel
    when: When | None = None
    slo_class: Annotated[DnsLabel | None, Field(alias="class")] = None
    route: Annotated[tuple[WeightedPool, ...], Field(max_length=32)] = ()
    fallback: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] = ()

    @field_validator("route")
    @classmethod
    def _some_weight(cls, route: tuple[WeightedPool, ...]) -> tuple[WeightedPool, ...]:
        if route and not any(target.weight for target in route):
            raise ValueError("every weight is 0; give at least one pool a weight of 1 or more")
        return route


class Dispatch(Resource):
    """`policy` is a name of the scheduler's policy table."""

    policy: DnsLabel = "predicted-cost"


class Admission(Resource):
    max_queued: Annotated[Int, Field(ge=0, le=1_000_000)] = 2000
    queue_timeout_s: Annotated[Duration, Field(alias="queueTimeout")] = 30.0


class RoutingPolicySpec(Resource):
    priority: Annotated[Int, Field(ge=-1_000_000, le=1_000_000)] = 0
    classes: Annotated[tuple[SloClass, ...], Field(max_length=32)] = ()
    rules: Annotated[tuple[Rule, ...], Field(max_length=256)] = ()
    dispatch: Dispatch = Dispatch()
    admission: Admission = Admission()

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        for what, names in (
            ("classes", [c.name for c in self.classes]),
            ("rules", [rule.name for rule in self.rules]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {what} are called {name!r}; give each its own name")
        return self


class RoutingPolicy(Resource):
    api_version: ApiVersion = API_VERSION
    kind: Literal["RoutingPolicy"] = "RoutingPolicy"
    metadata: Metadata
    spec: RoutingPolicySpec

    @property
    def name(self) -> str:
        return self.metadata.name

    def slo_class(self, name: str) -> SloClass | None:
        return next((c for c in self.spec.classes if c.name == name), None)
