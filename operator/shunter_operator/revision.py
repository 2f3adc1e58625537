"""The label that says which weights a pod serves: requests move only between equal ones."""

import hashlib

from shunter_api.modelpool import ModelPool


def revision_label(pool: ModelPool) -> str:
    """A label value of the pool's revision, which may hold anything."""
    return hashlib.sha256(pool.revision.encode()).hexdigest()[:16]
