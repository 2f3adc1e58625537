"""One way to serve a pool's model: hardware, its price, and what it does of a request."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, field_validator

from shunter_api.accelerators import (
    ACCELERATORS,
    ALIASES,
    Accelerator,
    UnknownAccelerator,
    accelerator,
)
from shunter_api.base import DecimalText, DnsLabel, Int, Resource
from shunter_api.cel import Rule, cel
from shunter_api.placement import Labels, Resources, Toleration
from shunter_api.running import Replicas

Role = Literal["Any", "Prefill", "Decode"]


class Profile(Resource):
    """One way to serve the model: an accelerator, how many of it, and what it costs."""

    name: DnsLabel
    """The profile's name, unique in its pool."""

    accelerator: Annotated[
        str, Field(max_length=63, json_schema_extra={"enum": [*ACCELERATORS, *ALIASES]})
    ]
    """A key of the accelerator catalogue, or its short name."""

    role: Role = "Any"
    """Prefill: its instances compute prompts, and hand requests over to ones that decode at the
    first token. Decode: they take no new prompts while others can. Any: they do both."""

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
    """What one instance asks of its node; absent: for vllm and sglang `tensorParallel` times
    nvidia.com/gpu, for simulated and numpy a little CPU and memory. Only a cluster reads it."""

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
