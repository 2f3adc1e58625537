"""How a pool is run: its targets, the bounds of its instances, and the moves of its requests."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shunter_api.base import DecimalText, Duration, Int, Resource, without_default
from shunter_api.cel import Rule, cel

MigrationMode = Literal["Auto", "Replay", "Off"]


class Replicas(Resource):
    """How many instances a profile may have."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.max) || self.max >= (has(self.min) ? self.min : 1)",
                "max is less than min; raise max or lower min",
            )
        )
    )

    min: Annotated[Int, Field(ge=0, le=1000)] = 1
    """The fewest."""

    max: Annotated[Int, Field(ge=0, le=1000, json_schema_extra=without_default)] = 1
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
            raise ValueError(
                f"max ({self.max}) is less than min ({self.min}); raise max or lower min"
            )
        return self


class Slo(Resource):
    """Targets for a request: time to first token, time per token, and the share that meets both."""

    ttft_s: Annotated[Duration | None, Field(alias="ttft")] = None
    """Time to the first token; absent: no target."""

    tpot_s: Annotated[Duration | None, Field(alias="tpot")] = None
    """Time per token after the first; absent: no target."""

    attainment: Annotated[
        DecimalText,
        Field(
            gt=0,
            lt=1,
            json_schema_extra=cel(
                Rule(
                    "double(self) > 0.0 && double(self) < 1.0",
                    'must be more than 0 and less than 1, such as "0.99"',
                )
            ),
        ),
    ] = Decimal("0.99")
    """The share of requests that must meet the targets for the pool to have SLOMet, in quotes.
    Only a cluster reads it."""


class Migration(Resource):
    """Which moves of running requests are allowed, and within which limits."""

    mode: MigrationMode = "Auto"
    """Auto takes the best rung that both engines can do; Replay only replays; "Off" never moves."""

    drain_timeout_s: Annotated[Duration, Field(alias="drainTimeout")] = 120.0
    """How long a drain may take before what still runs is ended; on a cluster pods get that long to
    end."""

    max_concurrent_per_instance: Annotated[Int, Field(ge=1, le=256)] = 2
    """How many moves an instance takes part in at a time."""

    max_retries: Annotated[Int, Field(ge=0, le=10)] = 3
    """How many engine failures a request outlives."""
