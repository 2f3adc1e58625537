"""Classes, tenants and models for requests that have none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from shunter_simulator.workloads.arrivals import Arrival


@dataclass(frozen=True, slots=True)
class Label:
    """What `share` of the requests carry; shares are weights and need not add up to 1."""

    share: float
    slo_class: str = ""
    tenant: str = ""
    model: str = ""


def label(
    arrivals: Sequence[Arrival], labels: Sequence[Label], rng: np.random.Generator
) -> list[Arrival]:
    """Each request gets one of the labels at random."""
    if not labels:
        return list(arrivals)
    weights = np.array([one.share for one in labels])
    picks = rng.choice(len(labels), size=len(arrivals), p=weights / weights.sum()).tolist()
    return [
        replace(a, slo_class=labels[i].slo_class, tenant=labels[i].tenant, model=labels[i].model)
        for a, i in zip(arrivals, picks, strict=True)
    ]
