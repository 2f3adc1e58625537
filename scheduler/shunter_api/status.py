"""What the operator writes into `status` of both resources."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.config import JsonDict

from shunter_api.base import ComputedDuration, DecimalText, Int, Resource
from shunter_api.profile import Role

ConditionType = Literal[
    "Ready", "Progressing", "Degraded", "AutoscalerActive", "SLOMet", "SpilledOver", "Draining"
]
StartingPhase = Literal["Scheduling", "PullingImage", "Downloading", "Loading"]
ProfilePhase = Literal[
    "Idle", "Scheduling", "PullingImage", "Downloading", "Loading", "Ready", "Draining", "Failed"
]
Count = Annotated[Int, Field(ge=0, le=1_000_000)]


def list_by(key: str) -> JsonDict:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class Written(Resource):
    """Base of what code writes, by its field names, and reads, by its keys."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)


class Condition(Written):
    """One thing that holds, does not hold, or is not known, and why."""

    type: ConditionType
    """What the condition is about."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """The metadata.generation that it was found for."""

    last_transition_time: AwareDatetime
    """When `status` last changed."""

    reason: Annotated[
        str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)
    ]
    """The root cause in one word."""

    message: Annotated[str, Field(max_length=32_768)] = ""
    """The root cause in a sentence, and what to do."""


class Starting(Written):
    """Instances that are equally far on their way to serve."""

    phase: StartingPhase
    """Scheduling waits for a node; PullingImage mounts volumes and fetches images; Downloading
    fetches weights or waits for the pod that does; Loading brings them into the accelerator."""

    replicas: Count
    """How many they are."""

    since: AwareDatetime | None = None
    """When the first of them came so far."""


class ProfileStatus(Written):
    """The instances of one profile."""

    name: Annotated[str, Field(max_length=63)]
    """The profile's name."""

    role: Role = "Any"
    """What they do of a request."""

    desired_replicas: Count = 0
    """Instances wanted now."""

    replicas: Count = 0
    """Pods that exist."""

    ready_replicas: Count = 0
    """Pods that serve."""

    unschedulable_replicas: Count = 0
    """Pods that no node takes."""

    draining_replicas: Count = 0
    """Pods that are being emptied before they go."""

    phase: ProfilePhase = "Idle"
    """How far the profile is: as the least far of its starting instances."""

    starting: Annotated[
        tuple[Starting, ...], Field(max_length=4, json_schema_extra=list_by("phase"))
    ] = ()
    """Instances that do not serve yet."""

    reason: Annotated[str, Field(max_length=1024)] | None = None
    """Why it is not further, in one word."""

    message: Annotated[str, Field(max_length=32_768)] | None = None
    """Why it is not further, in a sentence."""


class Serving(Written):
    """What the scheduler saw over the last minute; written at most every ten seconds."""

    ttft_p95: Annotated[ComputedDuration | None, Field(alias="ttftP95")] = None
    """The 95th percentile of time to first token."""

    slo_attainment: Annotated[DecimalText, Field(ge=0, le=100)] | None = None
    """The share of requests, in percent, that met the pool's targets."""

    queued: Count | None = None
    """Requests that wait for an instance."""

    running: Count | None = None
    """Requests that instances work on."""

    tokens_per_second: Annotated[Int, Field(ge=0)] | None = None
    """Tokens that were generated in a second."""


class PoolStatus(Written):
    """What the operator found and did."""

    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """The metadata.generation that the rest is about."""

    model: Annotated[str, Field(max_length=255)] | None = None
    """The name that clients send as `model`."""

    desired_replicas: Count = 0
    """Instances wanted now, over all profiles."""

    replicas: Count = 0
    """Pods that exist, over all profiles."""

    ready_replicas: Count = 0
    """Pods that serve, over all profiles."""

    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Selects the pool's pods; `kubectl scale` and autoscalers read it."""

    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """Where clients find the model: the gateway's URL in the cluster."""

    gpu_mix: Annotated[str, Field(max_length=1024)] | None = None
    """The accelerators of the ready instances, such as `2xh100-sxm-80gb+1xl4-24gb`."""

    cost_per_hour: Annotated[DecimalText, Field(ge=0)] | None = None
    """What the pods that have a node cost in an hour, by each profile's `costPerHour`."""

    policy: Annotated[str, Field(max_length=253)] | None = None
    """The RoutingPolicy that gives dispatch and admission."""

    profiles: Annotated[
        tuple[ProfileStatus, ...], Field(max_length=64, json_schema_extra=list_by("name"))
    ] = ()
    """Each profile's instances, those of removed profiles included while they drain."""

    serving: Serving | None = None
    """What the scheduler saw."""

    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_by("type"))
    ] = ()
    """What holds, and why."""


class PolicyStatus(Written):
    """What the operator found."""

    observed_generation: Annotated[Int, Field(ge=0)] | None = None
    """The metadata.generation that the rest is about."""

    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_by("type"))
    ] = ()
    """What holds, and why."""
