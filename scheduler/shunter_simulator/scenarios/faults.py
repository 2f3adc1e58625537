"""`faults` of a scenario: what goes wrong, when, and with which instance."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shunter_api.base import DnsLabel, DnsName, Duration, Int, Resource
from shunter_simulator.scenarios.values import Delay

FaultKind = Literal["dies", "drains", "spot-notice", "slow"]

_NEEDS = "give `instance`, or `pool` and with it `count`"


class Fault(Resource):
    """Something that happens to one or several instances."""

    kind: FaultKind
    """dies: killed at once, with all that runs there; drains: takes no more, and ends after
    `deadline` at the latest; spot-notice: drains, and is killed after `deadline`; slow: steps take
    `factor` times as long."""

    at_s: Annotated[Delay, Field(alias="at")]
    """When, after the start."""

    instance: DnsName | None = None
    """Which one: POOL-PROFILE-NUMBER, counted from 0."""

    pool: DnsLabel | None = None
    """Of which pool, where the seed draws the instances."""

    profile: DnsLabel | None = None
    """Of which profile of the pool; absent: any."""

    count: Annotated[Int, Field(ge=1, le=10_000)] = 1
    """How many the seed draws."""

    deadline_s: Annotated[Duration, Field(alias="deadline")] = 30.0
    """Of drains and spot-notice: how long what runs there has."""

    factor: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """Of slow: what step times are multiplied by."""

    back_after_s: Annotated[Duration | None, Field(alias="backAfter")] = None
    """The instance is there again, empty, so long after it went; a slow one is as before. Absent:
    never."""

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if (self.instance is None) == (self.pool is None):
            raise ValueError(f"a fault hits one instance or some of a pool; {_NEEDS}")
        if self.instance is not None and (self.profile is not None or self.count != 1):
            raise ValueError("profile and count go with `pool`; leave them out beside `instance`")
        return self
