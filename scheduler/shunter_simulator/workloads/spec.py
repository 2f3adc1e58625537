"""The `workload` of a scenario file."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from shunter_api.base import Duration, Resource
from shunter_simulator.workloads.lengths import parse_length

Rate = Annotated[float, Field(gt=0, le=1_000_000)]
Variation = Annotated[float, Field(ge=0, le=100)]
Requests = Annotated[int, Field(ge=1, le=10_000_000)]
Lengths = Annotated[str, AfterValidator(lambda text: parse_length(text).text)]
LengthName = Literal["S", "M", "L", "sharegpt", "burstgpt"]


class LabelSpec(Resource):
    """What a share of the requests carry."""

    share: Annotated[float, Field(gt=0)]
    slo_class: Annotated[str, Field(alias="class")] = ""
    tenant: str = ""
    model: str = ""


class LlumnixWorkload(Resource):
    """A trace of the Llumnix paper; seed 0 gives the paper's own draw."""

    kind: Literal["llumnix"]
    prompts: LengthName
    outputs: LengthName
    rate: Rate
    requests: Requests = 10_000
    cv: Annotated[float, Field(gt=0, le=100)] = 1.0
    high_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    high_class: str = "high"


class HexgenWorkload(Resource):
    """Text-to-SQL workflows; `rate` is in workflows per second."""

    kind: Literal["hexgen"]
    trace: Literal["trace1", "trace2"] = "trace1"
    rate: Rate
    queries: Requests = 200
    deadline_s: Annotated[Duration | None, Field(alias="deadline")] = None


class AzureWorkload(Resource):
    """The Azure conversation trace at a mean rate: copies of it at once, begun at random points."""

    kind: Literal["azure"]
    rate: Rate
    duration_s: Annotated[Duration, Field(alias="duration")]
    labels: tuple[LabelSpec, ...] = ()


class MooncakeWorkload(Resource):
    """A stretch of the Mooncake conversation trace from anywhere in it, `speed` times as fast;
    without a duration the whole of it."""

    kind: Literal["mooncake"]
    speed: Rate = 1.0
    duration_s: Annotated[Duration | None, Field(alias="duration")] = None
    max_prompt_tokens: Annotated[int | None, Field(ge=1)] = None
    """Longer prompts are cut to so many tokens."""


class GeneratedWorkload(Resource):
    """Gamma arrivals; lengths as `shunter bench` takes them."""

    kind: Literal["generated"]
    rate: Rate
    duration_s: Annotated[Duration, Field(alias="duration")]
    cv: Variation = 1.0
    prompt: Lengths = "lognormal/1155/0.96"
    output: Lengths = "lognormal/211/0.77"
    labels: tuple[LabelSpec, ...] = ()


class StreamSpec(Resource):
    """One stream; equally many of its requests come from each of `tenants`."""

    rate: Rate
    cv: Variation = 1.0
    slo_class: Annotated[str, Field(alias="class")] = ""
    tenants: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)
    model: str = ""
    start_s: Annotated[Duration, Field(alias="start")] = 0.0
    end_s: Annotated[Duration | None, Field(alias="end")] = None


class StreamsWorkload(Resource):
    """Several streams at once, with lengths of the Azure conversation trace. `only` leaves one
    class's requests, the very ones that come when all are there."""

    kind: Literal["streams"]
    duration_s: Annotated[Duration, Field(alias="duration")]
    streams: Annotated[tuple[StreamSpec, ...], Field(min_length=1)]
    only: str = ""


WorkloadSpec = Annotated[
    LlumnixWorkload
    | HexgenWorkload
    | AzureWorkload
    | MooncakeWorkload
    | GeneratedWorkload
    | StreamsWorkload,
    Field(discriminator="kind"),
]


def classes_of(workload: WorkloadSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Classes that requests ask for, with the place of each; empty: the default."""
    if isinstance(workload, LlumnixWorkload):
        if workload.high_share:
            yield ("highClass",), workload.high_class
    elif isinstance(workload, AzureWorkload | GeneratedWorkload):
        for index, label in enumerate(workload.labels):
            yield ("labels", index, "class"), label.slo_class
    elif isinstance(workload, StreamsWorkload):
        for index, stream in enumerate(workload.streams):
            yield ("streams", index, "class"), stream.slo_class
        yield ("only",), workload.only
