"""`InstanceList`: engines that run already. A kind of files only; a cluster finds its pods."""

from typing import Annotated, Literal

from pydantic import Field

from shunter_api.base import ADDRESS, API_VERSION, ApiVersion, DnsLabel, DnsName, Metadata, Resource
from shunter_api.engine import EngineType

Address = Annotated[str, Field(pattern=ADDRESS, max_length=263)]


class InstanceEntry(Resource):
    name: DnsName
    pool: DnsLabel
    profile: DnsLabel
    address: Address
    engine_type: EngineType | None = None


class InstanceList(Resource):
    api_version: ApiVersion = API_VERSION
    kind: Literal["InstanceList"] = "InstanceList"
    metadata: Metadata | None = None
    items: Annotated[tuple[InstanceEntry, ...], Field(max_length=10_000)] = ()
