"""`spec.scaling`: who decides how many instances run, to and from zero, and who goes first."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shunter_api.base import Duration, Int, Resource
from shunter_api.cel import Rule, cel
from shunter_api.running import Replicas

ScalingMode = Literal["Auto", "Manual"]
DEFAULT_PRIORITY = 100
_MIN_ABOVE_ZERO = "scaleToZero needs profiles that may have no instance"
# Of `spec.scaling`.
FLOOR_ABOVE_ZERO = Rule(
    "!has(self.scaleToZero) || !has(self.floor) || self.floor == 0",
    "scaleToZero and a floor exclude each other; leave one of them out",
)
# Of `spec`: what `Scaling.check` says.
MIN_ABOVE_ZERO = Rule(
    "!has(self.scaling.scaleToZero) || "
    "self.profiles.all(p, has(p.replicas) && has(p.replicas.min) && p.replicas.min == 0)",
    f"{_MIN_ABOVE_ZERO}; set replicas.min of every profile to 0",
)


def floor_rule(most_replicas: str) -> Rule:
    """`most_replicas`: the sum of replicas.max in CEL."""
    return Rule(
        f"!has(self.scaling.floor) || self.scaling.floor <= {most_replicas}",
        "floor is more than the profiles' replicas.max add up to; lower it or raise a max",
    )


class ScaleToZero(Resource):
    """When no instance needs to run, and what becomes of requests that come then."""

    after_s: Annotated[Duration, Field(alias="after")] = 600.0
    """The last instance goes once there has been no request for this long."""

    max_held: Annotated[Int, Field(ge=1, le=100_000, alias="maxHeld")] = 1000
    """Requests that wait while no instance serves; what comes beyond is refused with 503."""

    hold_timeout_s: Annotated[Duration, Field(alias="holdTimeout")] = 300.0
    """A request that waits this long for the first instance is refused with 503."""


class Scaling(Resource):
    """Who decides how many instances run, how soon profiles spill and return, and which pool gets
    a GPU that two of them want."""

    model_config = ConfigDict(json_schema_extra=cel(FLOOR_ABOVE_ZERO))

    mode: ScalingMode = "Auto"
    """Auto: the scheduler's advice, within each profile's bounds. Manual: `spec.replicas`."""

    spill_after_s: Annotated[Duration, Field(alias="spillAfter")] = 60.0
    """The next profile stands in for pods that no node has taken for this long."""

    return_after_s: Annotated[Duration, Field(alias="returnAfter")] = 120.0
    """A stand-in goes, and its requests move, once the preferred pod has been ready this long."""

    scale_down_after_s: Annotated[Duration, Field(alias="scaleDownAfter")] = 300.0
    """An instance goes only after fewer have been enough for this long."""

    scale_to_zero: ScaleToZero | None = None
    """Lets the last instance go too, and holds requests until one is there again. Only where every
    `replicas.min` and the floor are 0, and only in mode Auto. Absent: Auto keeps one instance."""

    priority: Annotated[Int, Field(ge=0, le=1000)] = DEFAULT_PRIORITY
    """Where GPUs are short, pools of a higher priority get instances of pools of a lower one, which
    are drained first."""

    floor: Annotated[Int, Field(ge=0, le=32_000)] | None = None
    """So many instances are never given to pools of a higher priority, and Auto keeps as many.
    Absent: what the profiles' `replicas.min` add up to."""

    @property
    def from_zero(self) -> ScaleToZero | None:
        """How requests are held while there is no instance; None where they are refused."""
        return self.scale_to_zero if self.mode == "Auto" else None

    def floor_of(self, replicas: Sequence[Replicas]) -> int:
        """Instances that no other pool gets; `replicas` are those of the profiles."""
        return sum(r.min for r in replicas) if self.floor is None else self.floor

    def check(self, replicas: Sequence[Replicas]) -> Self:
        """Raises ValueError where the profiles' bounds do not allow this."""
        most = sum(r.max for r in replicas)
        if self.floor is not None and self.floor > most:
            raise ValueError(
                f"floor is {self.floor}, and the profiles' replicas.max add up to {most}; "
                "lower the floor or raise a max"
            )
        if self.scale_to_zero is not None and any(r.min for r in replicas):
            raise ValueError(f"{_MIN_ABOVE_ZERO}; set replicas.min of every profile to 0")
        return self

    @model_validator(mode="after")
    def _zero_is_above_the_floor(self) -> Self:
        if self.scale_to_zero is not None and self.floor:
            raise ValueError(FLOOR_ABOVE_ZERO.message)
        return self
