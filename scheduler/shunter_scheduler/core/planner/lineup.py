"""The instances of a pool as far as they stay what they are: made once, and again when one comes,
goes or says otherwise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.domain.cluster import Instance

Indices = NDArray[np.intp]
Told = list[tuple[Instance, ProfileModel, str]]


@dataclass(frozen=True, slots=True)
class Lineup:
    """One element an instance, in the order of `records`. `told` is what the rest follows from."""

    told: Told
    places: Mapping[str, int]  # of the profiles
    records: Sequence[InstanceRecord]
    models: Sequence[ProfileModel]
    model_of: Indices
    slots: Indices
    preference: NDArray[np.float64]  # of its profile; 0 is the first
    transport: Indices  # a number for each way to copy KV; -1: none
    revision: Indices  # a number for each


def line_up(
    known: Lineup | None, records: Iterable[InstanceRecord], places: Mapping[str, int]
) -> Lineup:
    """`known` where nothing has changed. `places`: of the pool's profiles, in order."""
    records = list(records)
    told = [(record.value, record.model, record.kv_transport) for record in records]
    same = known is not None and all(map(is_, known.records, records))
    if known is not None and same and known.told == told and known.places == places:
        return known
    models = list(dict.fromkeys(record.model for record in records))
    number = {id(model): at for at, model in enumerate(models)}
    return Lineup(
        told,
        places,
        records,
        models,
        np.array([number[id(record.model)] for record in records], dtype=np.intp),
        np.array([record.slot for record in records], dtype=np.intp),
        np.array([float(places.get(record.value.profile, 0)) for record in records]),
        _numbered([transport for *_, transport in told]),
        _numbered([record.value.revision for record in records]),
    )


def _numbered(names: Sequence[str]) -> Indices:
    number = {name: at for at, name in enumerate(dict.fromkeys(names))} | {"": -1}
    return np.array([number[name] for name in names], dtype=np.intp)
