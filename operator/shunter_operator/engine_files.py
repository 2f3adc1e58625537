"""`engine.files` in pods: a ConfigMap whose name holds the digest of its content. Pure.

So a change makes new pods, and the old ones keep what they were started with.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_operator.names import Ref, service_name
from shunter_operator.values import Delete, Observed

FILES_VOLUME = "files"
FILES_PATH = "/etc/shunter/files"
_DIGEST_CHARACTERS = 10


def data_of(pool: ModelPool) -> dict[str, str]:
    return {file.name: file.content for file in pool.spec.engine.files}


def config_map_name(pool: ModelPool) -> str:
    text = json.dumps(data_of(pool), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{service_name(pool.name)}-files-{digest}"


def volumes(pool: ModelPool) -> list[dict[str, Any]]:
    """None where there are no files."""
    if not pool.spec.engine.files:
        return []
    return [{"name": FILES_VOLUME, "configMap": {"name": config_map_name(pool)}}]


def mounts(pool: ModelPool) -> list[dict[str, Any]]:
    if not pool.spec.engine.files:
        return []
    return [{"name": FILES_VOLUME, "mountPath": FILES_PATH, "readOnly": True}]


def outdated(pool: ModelPool, observed: Observed) -> list[Ref]:
    """ConfigMaps of earlier files."""
    current = config_map_name(pool) if pool.spec.engine.files else ""
    return sorted(r for r in observed.objects if r.kind == "ConfigMap" and r.name != current)


def discard(
    old: Collection[Ref], observed: Observed, templates: Collection[str]
) -> Iterator[Delete]:
    """Once no pod is left that was made of another template, and may read them again."""
    if all(pod.template in templates for pod in observed.pods):
        for ref in old:
            yield Delete(ref)
