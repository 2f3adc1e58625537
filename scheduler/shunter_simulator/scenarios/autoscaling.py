"""`autoscaling` of a scenario: how many instances are there while it runs."""

from typing import Annotated

from pydantic import Field, model_validator

from shunter_api.base import Duration, Int, Resource
from shunter_simulator.scenarios.values import Delay

Tokens = Annotated[float, Field(ge=-1e9, le=1e9)]


class Autoscaling(Resource):
    """Instances come and go as the scheduler advises, or, with `freeness`, by the rule of Llumnix's
    artifact: a pool has enough free KV tokens per request, less what waits. Those that come are
    there at once, first those that drain; those that go drain."""

    utilisation: Annotated[float, Field(gt=0, le=1)] | None = None
    """What of an instance's capacity the advice counts on; absent: 0.8, as in production."""

    freeness: Tokens | None = None
    """KV tokens per request below which instances come."""

    margin: Annotated[float, Field(ge=0, le=1e9)] = 800.0
    """One goes where without it this much more than `freeness` is left."""

    start: Annotated[Int, Field(ge=1, le=100_000)] = 8
    """Instances of each pool at the beginning. `instances` says how many there can be."""

    interval_s: Annotated[Duration, Field(alias="interval")] = 10.0
    """Between two looks."""

    begin_s: Annotated[Delay, Field(alias="begin")] = 100.0
    """Of the first look."""

    deadline_s: Annotated[Duration, Field(alias="deadline")] = 86_400.0
    """Of a drain; what runs there then is ended."""

    @model_validator(mode="after")
    def _one_rule(self) -> "Autoscaling":
        if self.freeness is not None and self.utilisation is not None:
            raise ValueError("utilisation is of the scheduler's advice, freeness a rule of its own")
        return self
