"""The status of a resource as somebody wrote it before, and as we write it. Pure."""

from collections.abc import Mapping
from typing import Any

from shunter_api.status import PolicyStatus, PoolStatus
from shunter_operator.values import Manifest


def pool_status_of(body: Mapping[str, Any]) -> PoolStatus:
    """Empty where it does not read."""
    try:
        return PoolStatus.model_validate(body.get("status") or {})
    except ValueError:
        return PoolStatus()


def policy_status_of(body: Mapping[str, Any]) -> PolicyStatus:
    """As `pool_status_of`."""
    try:
        return PolicyStatus.model_validate(body.get("status") or {})
    except ValueError:
        return PolicyStatus()


def status_patch(status: PoolStatus) -> Manifest:
    """As a merge patch: what is not there is removed, within `serving` too. Lists are whole."""
    names = [f.alias or name for name, f in PoolStatus.model_fields.items()]
    patch = dict.fromkeys(names) | status.model_dump(mode="json", by_alias=True, exclude_none=True)
    if status.serving is not None:
        patch["serving"] = status.serving.model_dump(mode="json", by_alias=True)
    return patch
