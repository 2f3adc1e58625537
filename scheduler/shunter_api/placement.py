"""Where an engine's pod may run and what it gets there. Only a cluster reads these."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from shunter_api.base import LABEL_VALUE, QUALIFIED_NAME, Int, Resource
from shunter_api.cel import Rule, cel

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"


def _quantity_text(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(QUANTITY[1:-1], value):
        raise ValueError(
            f'a quantity is a number with or without a unit, such as 1, "500m" or '
            f'"64Gi"; found {value!r}'
        )
    return value


QualifiedName = Annotated[str, Field(pattern=QUALIFIED_NAME, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
Quantity = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Field(max_length=32),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 32}),
]
Quantities = Annotated[dict[QualifiedName, Quantity], Field(max_length=32)]
Labels = Annotated[dict[QualifiedName, LabelValue], Field(max_length=64)]
Annotations = Annotated[
    dict[QualifiedName, Annotated[str, Field(max_length=65_536)]], Field(max_length=64)
]


class Resources(Resource):
    """What the engine container of one instance asks for and may use."""

    limits: Quantities = Field(default_factory=dict)
    """The most it may use, by resource; GPUs are given here, such as `nvidia.com/gpu: 1`."""

    requests: Quantities = Field(default_factory=dict)
    """What is set aside for it, by resource; what is absent here is taken from `limits`."""


class Toleration(Resource):
    """Lets the pods onto nodes with a taint, as in a pod's `tolerations`."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
                "operator Exists takes no value; leave value out or use Equal",
            ),
            Rule(
                "has(self.key) || (has(self.operator) && self.operator != 'Equal')",
                "operator Equal needs a key; give one or use Exists",
            ),
            Rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds counts for the effect NoExecute only",
            ),
        )
    )

    key: QualifiedName | None = None
    """The taint's key; absent, with operator Exists: every taint."""

    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal compares key and value; Exists asks for the key only."""

    value: LabelValue | None = None
    """The taint's value, for Equal."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent: every effect."""

    toleration_seconds: Annotated[Int, Field(ge=0, le=86_400)] | None = None
    """For NoExecute: how long a pod stays after the taint appeared; absent: for ever."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value; leave value out or use Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator Equal needs a key; give one or use Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds counts for the effect NoExecute only")
        return self


class PodMetadata(Resource):
    """What is added to the metadata of engine pods."""

    labels: Labels = Field(default_factory=dict)
    """Labels to add; the operator's own, under shunter.dev/ and the like, win."""

    annotations: Annotations = Field(default_factory=dict)
    """Annotations to add."""


class PodTemplate(Resource):
    """Overrides of the pods that the operator makes: anything that Kubernetes has."""

    metadata: PodMetadata = PodMetadata()
    """Labels and annotations to add."""

    spec: dict[str, Any] = Field(
        default_factory=dict, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Merged into the pod's spec as a strategic merge patch: the container `engine` is named."""
