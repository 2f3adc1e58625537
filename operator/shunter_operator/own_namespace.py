"""Hears when the operator's own namespace is deleted: then it has five seconds.

Kubernetes touches what a namespace holds only 5 s after the namespace was told to go
(`namespaceDeletionGracePeriod` of its namespace controller), and then in no order: the operator's
rights may go before the pools whose deletion waits for it.
"""

import asyncio
from contextlib import aclosing
from urllib.parse import quote

import structlog

from shunter_runtime.kube_api import KubeApi, KubeError, NotFound, Object, Refused

WATCH_S = 300.0
RETRY_S = 10.0
REFUSED_RETRY_S = 600.0

log = structlog.get_logger(__name__)


async def until_deleted(api: KubeApi, namespace: str) -> None:
    """Returns once the namespace is being deleted."""
    while True:
        pause_s = RETRY_S
        try:
            if await _ends_during_a_watch(api, quote(namespace)):
                return
        except NotFound:
            return
        except Refused as error:
            pause_s = REFUSED_RETRY_S
            remedy = "grant watch on it; the chart's Role does"
            log.warning("namespace.not_watched", reason=str(error), remedy=remedy)
        except KubeError as error:
            log.info("namespace.watch_failed", reason=str(error))
        await asyncio.sleep(pause_s)


async def _ends_during_a_watch(api: KubeApi, namespace: str) -> bool:
    """The first event is the namespace as it is. This path names it, so a Role in it is enough;
    a list with a field selector would need a ClusterRole."""
    events = api.watch(f"/api/v1/watch/namespaces/{namespace}", "0", {}, WATCH_S)
    async with aclosing(events):
        async for event in events:
            if event.type == "DELETED" or _ends(event.object):
                return True
    return False


def _ends(body: Object) -> bool:
    return "deletionTimestamp" in (body.get("metadata") or {})
