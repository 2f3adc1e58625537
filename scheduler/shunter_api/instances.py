"""`InstanceList`: engines that run already. A kind of files only; a cluster finds its pods."""

from typing import Annotated, Literal

from pydantic import Field

from shunter_api.base import API_VERSION, ApiVersion, DnsLabel, DnsName, Metadata, Resource
from shunter_api.modelpool import EngineType

# host:port, with an IPv6 host in brackets.
Address = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$"
    ),
]


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
