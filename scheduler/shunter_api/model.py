"""`spec.model` of a pool: what is served, and under which names."""

from typing import Annotated

from pydantic import Field

from shunter_api.base import MODEL_SOURCE, DnsName, Int, ModelName, Resource


class SecretRef(Resource):
    """A Secret in the namespace of the pool."""

    name: DnsName
    """The Secret's name."""

    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = "token"
    """The key in the Secret that holds the value."""


class Cache(Resource):
    """Where weights are kept between starts."""

    pvc: DnsName
    """The PersistentVolumeClaim, in the pool's namespace, that every engine pod mounts."""


class Model(Resource):
    """What is served, and under which names."""

    source: Annotated[str, Field(pattern=MODEL_SOURCE, max_length=1024)]
    """Where the weights come from: `sim://`, `hf://`, `pypi://` or `file://` and a path."""

    name: ModelName | None = None
    """What clients send as `model`; absent: the pool's name."""

    aliases: Annotated[tuple[ModelName, ...], Field(max_length=64)] = ()
    """Further names that clients may send; a name leads to one pool only."""

    context_length: Annotated[Int, Field(ge=64, le=16_777_216)] = 8192
    """The most tokens, prompt and answer together, of one request."""

    credentials_secret_ref: SecretRef | None = None
    """A Secret with the token that downloads `hf://` weights; engines get it as HF_TOKEN.
    Only a cluster reads it."""

    cache: Cache | None = None
    """Keeps downloaded weights on a volume, so that a new pod does not download them again.
    Only a cluster reads it."""

    @property
    def source_scheme(self) -> str:
        return self.source.partition("://")[0]
