"""Merging and comparing manifests as Kubernetes does. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from shunter_operator.names import ANNOTATION_APPLIED
from shunter_operator.values import Manifest

# The key by which elements of a list are the same, per Kubernetes' strategic merge patch.
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
}
_ONE_OF = frozenset({"preStop", "postStart"})  # a hook has one handler: another takes its place
_SUFFIXES: Mapping[str, int | Decimal] = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?")


def strategic_merge(base: Any, patch: Any, field: str = "") -> Any:
    """`patch` laid over `base`: mappings merge, null removes, lists with a merge key merge by it,
    other lists and hooks are replaced. Neither argument is changed."""
    if isinstance(base, Mapping) and isinstance(patch, Mapping) and field not in _ONE_OF:
        merged = dict(base)
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = strategic_merge(merged.get(key), value, key)
        return merged
    if isinstance(base, list) and isinstance(patch, list) and field in _MERGE_KEYS:
        return _merge_lists(base, patch, _MERGE_KEYS[field])
    return patch


def _merge_lists(base: list[Any], patch: list[Any], keys: tuple[str, ...]) -> list[Any]:
    merged = list(base)
    for element in patch:
        same = next((i for i, one in enumerate(merged) if _same(one, element, keys)), None)
        if same is None:
            merged.append(element)
        else:
            merged[same] = strategic_merge(merged[same], element)
    return merged


def _same(one: Any, other: Any, keys: tuple[str, ...]) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return bool(one == other)
    key = next((k for k in keys if k in other), None)
    return key is not None and one.get(key) == other[key]


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with the digest of what it asks for among its annotations."""
    metadata = manifest["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations[ANNOTATION_APPLIED] = digest(manifest)
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def digest(manifest: Manifest) -> str:
    """Equal for what asks for the same."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differs(manifest: Manifest, live: Manifest | None) -> bool:
    """Whether applying a sealed manifest would change something.

    The digest tells what is asked for no more; the comparison tells what others have changed.
    """
    return live is None or not _covers(live, manifest)


def _covers(live: Any, wanted: Any, field: str = "") -> bool:
    """Whether `live` has everything that `wanted` asks for; defaults of the server may be more."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return not wanted and live is None
        return all(_covers(live.get(key), value, key) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(live, list):
            return not wanted and live is None
        if field in _MERGE_KEYS:
            keys = _MERGE_KEYS[field]
            found = [next((o for o in live if _same(o, w, keys)), None) for w in wanted]
            return all(_covers(o, w) for o, w in zip(found, wanted, strict=True))
        return len(live) == len(wanted) and all(map(_covers, live, wanted))
    if wanted in (None, "") or live is None:
        return live in (None, "") and wanted in (None, "")
    return bool(live == wanted) or quantity(live) == quantity(wanted) is not None


def quantity(value: Any) -> Decimal | None:
    """A resource quantity as a number: the server writes 1000m as 1."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return Decimal(found[1]) * _SUFFIXES[found[2] or ""] if found else None
