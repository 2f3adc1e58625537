"""`RoutingPolicy`: SLO classes, routing rules, dispatch policy and admission limits."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from shunter_api.base import (
    API_VERSION,
    HEADER_NAME,
    ApiVersion,
    DnsLabel,
    Duration,
    Int,
    Metadata,
    ModelName,
    Resource,
    check_unique,
)
from shunter_api.cel import Rule as CelRule
from shunter_api.cel import cel, unique_names
from shunter_api.tenants import Tenant

HeaderName = Annotated[str, Field(pattern=HEADER_NAME, max_length=128)]


_EMPTY_WHEN = (
    "says nothing; give models, headers, tenants or promptTokens, "
    "or leave `when` out to match every request"
)
_NO_WEIGHT = "every weight is 0; give at least one pool a weight of 1 or more"


class SloClass(Resource):
    """A class of requests. Targets that are absent do not count."""

    name: DnsLabel
    """The class's name; `standard` is what requests get that no rule gives a class."""

    priority: Annotated[Int, Field(ge=0, le=1_000_000)]
    """Higher goes first."""

    ttft_s: Annotated[Duration | None, Field(alias="ttft")] = None
    """Time to the first token."""

    tpot_s: Annotated[Duration | None, Field(alias="tpot")] = None
    """Time per token after the first."""

    deadline_s: Annotated[Duration | None, Field(alias="deadline")] = None
    """Time to the last token."""

    suspendable: bool = False
    """Its running requests may lose their engine to a higher class that finds no room; they wait
    with what they have generated, and go on from there."""


class PromptTokens(Resource):
    """A bound on the length of a prompt."""

    over: Annotated[Int, Field(ge=0, le=16_777_216)]
    """Holds for prompts of more tokens than this."""


class When(Resource):
    """Which requests a rule is for: all that is given must hold."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            CelRule(
                "(has(self.models) && size(self.models) > 0) || "
                "(has(self.headers) && size(self.headers) > 0) || "
                "(has(self.tenants) && size(self.tenants) > 0) || has(self.promptTokens)",
                _EMPTY_WHEN,
            )
        )
    )

    models: Annotated[tuple[ModelName, ...], Field(max_length=256)] = ()
    """Any one of these was sent as `model`."""

    headers: Annotated[
        dict[HeaderName, Annotated[str, Field(max_length=1024)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    """Every one of these headers was sent with this value."""

    tenants: Annotated[
        tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=256)
    ] = ()
    """Any one of these tenants sent it."""

    prompt_tokens: PromptTokens | None = None
    """The prompt is so long."""

    @field_validator("headers")
    @classmethod
    def _lower_case(cls, headers: dict[str, str]) -> dict[str, str]:
        return {name.lower(): value for name, value in headers.items()}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (self.models or self.headers or self.tenants or self.prompt_tokens):
            raise ValueError(_EMPTY_WHEN)
        return self


class WeightedPool(Resource):
    """A pool and its share of a rule's requests."""

    pool: DnsLabel
    """The pool's name."""

    weight: Annotated[Int, Field(ge=0, le=1_000_000)] = 1
    """Its share is this over the sum of all weights of the route."""


class Rule(Resource):
    """Where some requests go, and in which class."""

    name: DnsLabel
    """The rule's name, unique in its policy."""

    when: When | None = None
    """Which requests the rule is for; absent: every request."""

    slo_class: Annotated[DnsLabel | None, Field(alias="class")] = None
    """The class that they get; absent: `standard`, with the pool's own targets."""

    route: Annotated[
        tuple[WeightedPool, ...],
        Field(
            max_length=32,
            json_schema_extra=cel(
                CelRule(
                    "size(self) == 0 || self.exists(to, !has(to.weight) || to.weight > 0)",
                    _NO_WEIGHT,
                )
            ),
        ),
    ] = ()
    """The pools that serve them; absent: the pool that has the request's model name."""

    fallback: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] = ()
    """Pools to try next, in this order, where those of the route cannot serve."""

    @field_validator("route")
    @classmethod
    def _some_weight(cls, route: tuple[WeightedPool, ...]) -> tuple[WeightedPool, ...]:
        if route and not any(target.weight for target in route):
            raise ValueError(_NO_WEIGHT)
        return route


DispatchPolicyName = Literal[
    "predicted-cost",
    "round-robin",
    "least-requests",
    "power-of-two",
    "prefix-affinity",
    "llumnix",
    "queue-kv-prefix",
    "earliest-completion",
    "workload-balanced",
]


class Dispatch(Resource):
    """How an instance is picked for a request."""

    policy: DispatchPolicyName = "predicted-cost"
    """What instances are compared by; docs/policies.md has a table."""


class Admission(Resource):
    """How many requests may wait, and for how long."""

    max_queued: Annotated[Int, Field(ge=0, le=1_000_000)] = 2000
    """Requests that may wait for a pool; beyond that the lowest class is refused."""

    queue_timeout_s: Annotated[Duration, Field(alias="queueTimeout")] = 30.0
    """How long a request may wait before it is refused."""


class RoutingPolicySpec(Resource):
    """SLO classes, routing rules, and how requests are admitted and dispatched."""

    priority: Annotated[Int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Among policies: the rules of a higher one are asked first."""

    classes: Annotated[
        tuple[SloClass, ...], Field(max_length=32, json_schema_extra=unique_names("classes"))
    ] = ()
    """Classes of requests."""

    rules: Annotated[
        tuple[Rule, ...], Field(max_length=256, json_schema_extra=unique_names("rules"))
    ] = ()
    """Asked in this order; the first that matches a request decides."""

    tenants: Annotated[
        tuple[Tenant, ...], Field(max_length=256, json_schema_extra=unique_names("tenants"))
    ] = ()
    """Shares and limits of tenants, in all pools; a tenant is named by one policy only."""

    dispatch: Dispatch = Dispatch()
    """How an instance is picked for a request."""

    admission: Admission = Admission()
    """How many requests may wait, and for how long."""

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        check_unique("classes", (c.name for c in self.classes))
        check_unique("rules", (rule.name for rule in self.rules))
        check_unique("tenants", (tenant.name for tenant in self.tenants))
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
