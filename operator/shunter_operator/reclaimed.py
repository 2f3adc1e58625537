"""What a profile gives up for a pool of a higher priority, as its Deployment remembers it."""

import json
from collections.abc import Mapping

from shunter_operator.names import ANNOTATION_RECLAIMED
from shunter_operator.pods import moment, time_text
from shunter_operator.values import Manifest, Reclaim


def reclaim_text(reclaim: Reclaim) -> str:
    """As the annotation holds it."""
    value = {
        "limit": reclaim.limit,
        "by": reclaim.by,
        "priority": reclaim.priority,
        "lacks": reclaim.lacks,
        "placed": reclaim.placed,
        "others": reclaim.others,
        "freedAt": time_text(reclaim.freed_at) if reclaim.freed_at else None,
    }
    return json.dumps(value, separators=(",", ":"))


def reclaim_of(deployment: Manifest) -> Reclaim | None:
    """None where there is none, or somebody else has written there."""
    annotations: Mapping[str, str] = deployment["metadata"].get("annotations") or {}
    try:
        value = json.loads(annotations[ANNOTATION_RECLAIMED])
        return Reclaim(
            limit=max(0, int(value["limit"])),
            by=str(value["by"]),
            priority=int(value["priority"]),
            lacks=str(value["lacks"]),
            placed=int(value["placed"]),
            others=int(value["others"]),
            freed_at=moment(value["freedAt"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
