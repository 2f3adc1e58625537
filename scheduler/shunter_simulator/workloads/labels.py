"""Classes, tenants and models for requests that have none."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from shunter_simulator.workloads.arrivals import Arrival


@dataclass(frozen=True, slots=True)
class Label:
    """What `share` of the requests carry; shares are weights and need not add up to 1."""

    share: float
    slo_class: str = ""
    tenant: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Labelled(Collection[Arrival]):
    """`arrivals` with the label that `picks` has for each, made when it is its turn."""

    arrivals: Collection[Arrival]
    labels: Sequence[Label]
    picks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrivals)

    def __iter__(self) -> Iterator[Arrival]:
        for arrival, pick in zip(self.arrivals, self.picks, strict=True):
            one = self.labels[pick]
            yield replace(arrival, slo_class=one.slo_class, tenant=one.tenant, model=one.model)

    def __contains__(self, arrival: object) -> bool:
        return any(one == arrival for one in self)


def label(
    arrivals: Collection[Arrival], labels: Sequence[Label], rng: np.random.Generator
) -> Collection[Arrival]:
    """Each request gets one of the labels at random."""
    if not labels:
        return arrivals
    weights = np.array([one.share for one in labels])
    picks = rng.choice(len(labels), size=len(arrivals), p=weights / weights.sum())
    return Labelled(arrivals, labels, picks)
