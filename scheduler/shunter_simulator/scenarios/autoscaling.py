"""`autoscaling` of a scenario: how many instances are there while it runs."""

from typing import Annotated

from pydantic import Field

from shunter_api.base import Duration, Int, Resource
from shunter_simulator.scenarios.values import Delay

Tokens = Annotated[float, Field(ge=-1e9, le=1e9)]


class Autoscaling(Resource):
    """The rule of Llumnix's artifact: instances come and go so that a pool has enough free KV
    tokens per request, less what waits. Those that come are there at once, those that go drain."""

    freeness: Tokens
    """KV tokens per request below which instances come, first those that drain."""

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
