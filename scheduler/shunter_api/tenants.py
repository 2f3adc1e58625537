"""Tenants of a `RoutingPolicy`: their shares and their limits."""

from typing import Annotated

from pydantic import Field

from shunter_api.base import Int, Resource


class Tenant(Resource):
    """One tenant. Those that no policy names have a weight of 1 and no limits."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    """As its API keys, or the header x-shunter-tenant, say."""

    weight: Annotated[Int, Field(ge=1, le=1_000_000)] = 1
    """Its share of a pool, against those of the tenants that wait in the same class."""

    tokens_per_minute: Annotated[Int | None, Field(ge=1, le=1_000_000_000_000)] = None
    """Prompt and output tokens that it may use in a minute; beyond that it is refused with 429."""

    max_concurrent: Annotated[Int | None, Field(ge=1, le=1_000_000)] = None
    """Requests of it that may run at once; beyond that they wait."""
