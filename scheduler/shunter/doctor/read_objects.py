"""One answer of an API server: what was asked for, or why it was not read."""

import re
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from shunter.doctor.facts import Object, Unread
from shunter_runtime.kube_api import KubeApi, KubeError, Refused

T = TypeVar("T")


async def listed(
    api: KubeApi, path: str, query: Mapping[str, str] | None = None
) -> tuple[Object, ...] | Unread:
    found = await read(api.list(path, query))
    return found if isinstance(found, Unread) else found.items


async def read(call: Awaitable[T]) -> T | Unread:
    try:
        return await call
    except Refused as error:
        return Unread(in_short(error))
    except KubeError as error:
        return Unread(str(error))


def in_short(error: KubeError) -> str:
    said = _FORBIDDEN.search(str(error))
    return f"this user may not {said[1]} {said[2]}" if said else str(error).strip()


# An answer that was read as text has its quotes escaped.
_FORBIDDEN = re.compile(r'cannot (\w+) resource \\?"([^"\\]+)')
